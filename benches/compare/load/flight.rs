//! The queries of one socket that wait for an answer, found by their ID.
//!
//! IDs count up, so an ID says which query it is: no table of questions, only one of times. An ID is not used again
//! while its query waits.

const FREE: u64 = u64::MAX;
const LOST: u64 = u64::MAX - 1;

/// The queries of one socket.
pub(super) struct Flight {
    /// When each was due, in nanoseconds of the run, by the low bits of its ID; or [`FREE`] or [`LOST`].
    due: Box<[u64]>,
    /// How many were sent: the number of the next, whose low bits are its ID.
    next: u64,
    /// All before this one are answered or lost.
    oldest: u64,
    waiting: usize,
}

/// What an ID stood for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Query `number` of this socket, which was due at `due`.
    Waiting { due: u64, number: u64 },
    /// It was counted as lost before it came.
    Late,
    /// Never asked, or answered before.
    Unknown,
}

impl Flight {
    /// For up to `most` queries at once, 65,536 in all.
    pub(super) fn new(most: usize) -> Self {
        let size = most.clamp(1, 1 << 16).next_power_of_two();
        Self { due: vec![FREE; size].into(), next: 0, oldest: 0, waiting: 0 }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many were sent: the number of the next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether the next ID is free.
    pub(super) fn has_room(&self) -> bool {
        self.due[self.slot(self.next)] >= LOST
    }

    /// The ID of a query that is due at this time; only if there is room.
    pub(super) fn begin(&mut self, due: u64) -> u16 {
        let (number, slot) = (self.next, self.slot(self.next));
        self.due[slot] = due;
        self.next += 1;
        self.waiting += 1;
        number as u16
    }

    /// The last `count` queries were not sent.
    pub(super) fn take_back(&mut self, count: usize) {
        for _ in 0..count {
            self.next -= 1;
            let slot = self.slot(self.next);
            self.due[slot] = FREE;
        }
        self.waiting -= count;
    }

    pub(super) fn take(&mut self, id: u16) -> Taken {
        // The last number with this ID that was begun, if one was.
        let back = u64::from((self.next as u16).wrapping_sub(1).wrapping_sub(id)) + 1;
        let Some(number) = self.next.checked_sub(back).filter(|_| back <= self.due.len() as u64) else {
            return Taken::Unknown;
        };
        let slot = self.slot(number);
        match std::mem::replace(&mut self.due[slot], FREE) {
            FREE => Taken::Unknown,
            LOST => Taken::Late,
            due => {
                self.waiting -= 1;
                Taken::Waiting { due, number }
            }
        }
    }

    /// Frees what was due before this time, and returns how many that were. To be called now and then.
    pub(super) fn give_up(&mut self, before: u64) -> u64 {
        let mut lost = 0;
        // What was before has given its slot to a later one.
        self.oldest = self.oldest.max(self.next.saturating_sub(self.due.len() as u64));
        while self.oldest < self.next {
            let slot = self.slot(self.oldest);
            match self.due[slot] {
                FREE | LOST => {}
                due if due < before => {
                    self.due[slot] = LOST;
                    self.waiting -= 1;
                    lost += 1;
                }
                _ => break,
            }
            self.oldest += 1;
        }
        lost
    }

    fn slot(&self, number: u64) -> usize {
        number as usize & (self.due.len() - 1)
    }
}

#[cfg(test)]
#[allow(unused_imports, reason = "a benchmark runs no tests: `tests/it` runs these")]
mod tests {
    use super::*;

    #[test]
    fn accepts_one_response_per_id() {
        let mut flight = Flight::new(1 << 16);
        assert_eq!(flight.take(0), Taken::Unknown);
        for number in 0..200_000 {
            assert!(flight.has_room());
            assert_eq!(flight.begin(number), number as u16);
            if number >= 10 {
                let number = number - 10;
                assert_eq!(flight.take(number as u16), Taken::Waiting { due: number, number });
                assert_eq!(flight.take(number as u16), Taken::Unknown);
            }
        }
        assert_eq!((flight.waiting(), flight.next()), (10, 200_000));
    }

    #[test]
    fn reuses_no_id_in_flight() {
        let mut flight = Flight::new(4);
        (0..4).for_each(|due| _ = flight.begin(due));
        assert!(!flight.has_room());
        assert_eq!(flight.take(2), Taken::Waiting { due: 2, number: 2 });
        assert!(!flight.has_room());
        assert_eq!(flight.give_up(1), 1);
        assert!(flight.has_room());
        assert_eq!(flight.take(0), Taken::Late);
        assert_eq!(flight.take(0), Taken::Unknown);
        assert_eq!(flight.begin(9), 4);
        assert_eq!((flight.give_up(4), flight.waiting()), (2, 1));
        flight.take_back(1);
        assert_eq!((flight.give_up(FREE), flight.waiting(), flight.begin(5)), (0, 0, 4));
    }
}
