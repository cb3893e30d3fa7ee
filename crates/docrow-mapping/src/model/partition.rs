//! Partitions: how the documents of a pipeline are divided.

/// One of the workers among which a pipeline's documents are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);
