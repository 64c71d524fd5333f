//! Locks that are entered even if they are poisoned.
//!
//! `std` poisons a lock when a thread panics while it holds the lock, because the guarded value may be half changed. The
//! server enters a poisoned lock: a panic is counted and logged, and ends one task or thread, which is restarted. An error
//! for every later user of the lock would end all of them, so that one faulty message or object stops the server. Not here:
//! the locks of tokio, which are never poisoned.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks a mutex, and waits until it is free.
#[inline]
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a read-write lock for reading, and waits until it has no writer.
#[inline]
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a read-write lock for writing, and waits until it is free.
#[inline]
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enters_poisoned_locks() {
        let (mutex, lock_of_two) = (Mutex::new(1), RwLock::new(2));
        let panicked = std::panic::catch_unwind(|| {
            let _guards = (lock(&mutex), write(&lock_of_two));
            panic!("this thread has both locks");
        });
        assert!(panicked.is_err() && mutex.is_poisoned() && lock_of_two.is_poisoned());
        *write(&lock_of_two) += *lock(&mutex);
        assert_eq!(*read(&lock_of_two), 3);
    }
}
