//! Bodies under construction, at most one for each destination, and the buffers that they use again.

/// Buffers that are kept.
const KEPT: usize = 16;
/// Enough for most bodies.
const ROOM: usize = 256;

/// What leaves when the input is worked off.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// By destination, ascending.
    open: Vec<(usize, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Bodies {
    pub(super) fn has(&self, to: usize) -> bool {
        self.open.binary_search_by_key(&to, |(to, _)| *to).is_ok()
    }

    /// The body for a destination; an empty one when there was none.
    pub(super) fn of(&mut self, to: usize) -> &mut Vec<u8> {
        let at = self.open.binary_search_by_key(&to, |(to, _)| *to).unwrap_or_else(|at| {
            let body = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(ROOM));
            self.open.insert(at, (to, body));
            at
        });
        &mut self.open[at].1
    }

    /// Takes all of them, in the order of their destinations.
    pub(super) fn take(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.open)
    }

    /// Gives back the list that [`Self::take`] returned, so that its room is used again.
    pub(super) fn give_back(&mut self, mut list: Vec<(usize, Vec<u8>)>) {
        if list.capacity() <= KEPT && self.open.is_empty() {
            list.clear();
            self.open = list;
        }
    }

    /// A buffer that is used no more.
    pub(super) fn spare(&mut self, mut body: Vec<u8>) {
        if self.spare.len() < KEPT {
            body.clear();
            self.spare.push(body);
        }
    }

    /// An empty buffer.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_order_of_destinations() {
        let mut bodies = Bodies::default();
        for (to, byte) in [(5, 1), (2, 2), (9, 3), (5, 4)] {
            bodies.of(to).push(byte);
        }
        assert!(bodies.has(9) && !bodies.has(3));
        let mut list = bodies.take();
        let taken = std::mem::take(&mut list);
        assert_eq!(taken, [(2, vec![2]), (5, vec![1, 4]), (9, vec![3])]);
        bodies.give_back(list);
        bodies.spare(vec![7; 3]);
        assert!(bodies.of(1).is_empty(), "a buffer that is used again has nothing of its former use");
    }
}
