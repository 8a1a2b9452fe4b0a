//! Wire versions: while a cluster is upgraded daemon by daemon, two adjacent ones are spoken.

use super::world::World;

impl World {
    /// Whoever speaks a newer wire version than its receiver would not be understood.
    pub(super) fn check_version(&mut self, index: usize, from: usize, data: &[u8]) {
        let wire = data.first().map_or(0, |first| first & 0x0F);
        let speaks = self.hosts[index].speaks;
        if wire > crate::wire::seal::WIRE {
            super::mark!("wire: the next version is spoken");
        }
        if wire < speaks && wire < self.hosts[from].speaks {
            super::mark!("wire: two that speak the next version speak the present one");
        }
        if wire > speaks {
            self.broken("wire", format!("n{from} speaks version {wire} to n{index}, which speaks {speaks}"));
        }
    }
}
