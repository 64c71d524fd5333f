//! What is known of the data as a whole, apart from what is in it.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the zone can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataState {
    /// Not everything has been read yet: no name may be denied.
    NotSynced,
    /// The zone is what the source says.
    Current,
}

/// The present state, shared between who reads the source and who answers.
#[derive(Debug, Default)]
pub struct Status {
    synced: AtomicBool,
}

impl Status {
    /// Everything has been read once.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// The present state.
    pub fn data_state(&self) -> DataState {
        if self.synced.load(Ordering::Acquire) { DataState::Current } else { DataState::NotSynced }
    }
}
