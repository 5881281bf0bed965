//! Work on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` on each item, so many at a time; the results are in the order of the items.
///
/// # Panics
/// If `work` does.
pub(crate) fn each<T: Sync, R: Send>(
    items: &[T],
    at_a_time: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_a_time.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    // Only the number matters: what it stands for was there before the threads.
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    if let Ok(mut done) = done.lock() {
                        done.push((index, result));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn results_keep_the_order_and_the_work_is_shared() {
        let squares = each(&[1, 2, 3, 4, 5], 2, |n| n * n);
        assert_eq!(squares, [1, 4, 9, 16, 25]);
        assert!(each(&[], 3, |n: &u32| *n).is_empty());
        // Two of them have to be at work at once, or neither would come back.
        let both = Barrier::new(2);
        assert_eq!(each(&[1, 2], 2, |n| (both.wait(), *n).1), [1, 2]);
    }
}
