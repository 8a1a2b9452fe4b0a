//! Figures of several runs as people read them.

use std::fmt;
use std::time::Duration;

/// Median, least and greatest of some figures, printed with `digits` decimals.
pub struct Spread {
    sorted: Vec<f64>,
    digits: usize,
}

impl Spread {
    /// Of these figures.
    #[must_use]
    pub fn new(mut figures: Vec<f64>, digits: usize) -> Self {
        figures.sort_by(f64::total_cmp);
        Self { sorted: figures, digits }
    }

    /// Of these times, in milliseconds.
    #[must_use]
    pub fn of_millis(times: &[Duration]) -> Self {
        Self::new(times.iter().map(|time| time.as_secs_f64() * 1000.0).collect(), 0)
    }

    /// The figure in the middle; the upper one of two. None without figures.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        self.sorted.get(self.sorted.len() / 2).copied()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits;
        match (self.median(), self.sorted.first(), self.sorted.last()) {
            (Some(median), Some(least), Some(most)) => {
                write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
            }
            _ => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_first() {
        assert_eq!(Spread::new(vec![3.0, 1.0, 2.0], 1).to_string(), "2.0 (1.0 to 3.0)");
        assert_eq!(Spread::of_millis(&[Duration::from_millis(70)]).to_string(), "70 (70 to 70)");
        assert_eq!(Spread::new(Vec::new(), 0).to_string(), "-");
    }
}
