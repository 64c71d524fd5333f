//! Supervision of a task: one that ends or panics is restarted after a pause, counted and logged. Not here: the workers that
//! read sockets, which `server` restarts itself.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::metrics::{Event, Metrics};

/// First and longest pause before a restart. The pause doubles each time, and is short again after a task has run for more than
/// the longest pause.
const RESTART_BACKOFF_RANGE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Runs the task that `start` returns, and restarts it whenever it ends. Never returns.
pub(super) async fn supervise<F>(name: &str, metrics: &Arc<Metrics>, mut start: impl FnMut() -> F) -> Infallible
where
    F: Future<Output = ()> + Send + 'static,
{
    let counters = metrics.worker();
    let mut pause = RESTART_BACKOFF_RANGE.0;
    loop {
        let began = Instant::now();
        // The set aborts the task when this future is dropped.
        let mut task = JoinSet::new();
        task.spawn(start());
        let why = match task.join_next().await {
            Some(Err(error)) => error.to_string(),
            Some(Ok(())) | None => "it ended".to_owned(),
        };
        if began.elapsed() > RESTART_BACKOFF_RANGE.1 {
            pause = RESTART_BACKOFF_RANGE.0;
        }
        counters.count(Event::TaskRestarts);
        tracing::error!("{name} is restarted in {} ms: {why}", pause.as_millis());
        sleep(pause).await;
        pause = (pause * 2).min(RESTART_BACKOFF_RANGE.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn restarts_ended_tasks() {
        let metrics = Arc::new(Metrics::default());
        let mut runs = 0;
        let (done, third) = tokio::sync::oneshot::channel();
        let mut done = Some(done);
        let supervised = supervise("a test", &metrics, || {
            runs += 1;
            let done = (runs == 3).then(|| done.take()).flatten();
            async move {
                match done {
                    Some(done) => {
                        let _ = done.send(Instant::now());
                        std::future::pending::<()>().await;
                    }
                    None => panic!("on purpose"),
                }
            }
        });
        let began = Instant::now();
        let third = tokio::select! { third = third => third.unwrap(), never = supervised => match never {} };
        assert_eq!(third - began, RESTART_BACKOFF_RANGE.0 * 3);
        assert_eq!(metrics.total(Event::TaskRestarts), 2);
    }
}
