//! How far everything is: the least of all partitions' durable positions. Pure.

use crate::{change::Position, sink::progress::Partition};

/// The durable position of every partition.
#[derive(Debug)]
pub(super) struct Watermark(Vec<Position>);

impl Watermark {
    /// All `partitions` start at `start`.
    pub(super) fn new(partitions: u16, start: &Position) -> Self {
        Self(vec![start.clone(); partitions.into()])
    }

    /// Notes that `partition` is durable up to `position`, and returns the least position if that moved it. A
    /// partition never goes back.
    pub(super) fn advance(&mut self, partition: Partition, position: Position) -> Option<&Position> {
        let before = self.least()?.clone();
        let reached = self.0.get_mut(usize::from(partition.0))?;
        if position > *reached {
            *reached = position;
        }
        self.least().filter(|least| **least > before)
    }

    /// Everything up to and including this is durable.
    pub(super) fn least(&self) -> Option<&Position> {
        self.0.iter().min()
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    fn position(n: u32) -> Position {
        Position::from_token(&rawdoc! { "_data": format!("82{n:08X}00000001") }).unwrap()
    }

    /// G2: the stream is never resumed from beyond what some partition still has to write.
    #[test]
    fn is_the_least_of_all_partitions_and_never_goes_back() {
        let mut watermark = Watermark::new(2, &position(1));
        assert_eq!(watermark.advance(Partition(0), position(9)), None);
        assert_eq!(watermark.advance(Partition(1), position(4)), Some(&position(4)));
        assert_eq!(watermark.advance(Partition(1), position(2)), None);
        assert_eq!(watermark.least(), Some(&position(4)));
    }
}
