//! Which of the numbered records of a run have come, how often, and in which order. Pure: no time, no sockets.

/// What came of `0..count`.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// One bit per record.
    seen: Vec<u64>,
    count: u64,
    highest: Option<u64>,
    pub(super) received: u64,
    pub(super) duplicated: u64,
    /// First arrivals behind a record with a higher number.
    pub(super) reordered: u64,
}

impl Arrivals {
    pub(super) fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            seen: vec![0; words],
            count,
            highest: None,
            received: 0,
            duplicated: 0,
            reordered: 0,
        }
    }

    /// Notes one; false if it is none of this run's, or was here before.
    pub(super) fn note(&mut self, number: u64) -> bool {
        if number >= self.count {
            return false;
        }
        let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
        let bit = 1 << (number % 64);
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return false;
        }
        self.seen[word] |= bit;
        self.received += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_counts_once_and_in_its_order() {
        let mut arrivals = Arrivals::new(100);
        for number in [0, 1, 3, 2, 3, 64, 99] {
            arrivals.note(number);
        }
        assert_eq!(
            (arrivals.received, arrivals.duplicated, arrivals.reordered),
            (6, 1, 1)
        );
    }

    #[test]
    fn a_number_of_another_run_is_no_arrival() {
        let mut arrivals = Arrivals::new(64);
        assert!(!arrivals.note(64));
        assert!(!arrivals.note(u64::MAX));
        assert_eq!((arrivals.received, arrivals.duplicated), (0, 0));
    }
}
