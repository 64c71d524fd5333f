//! A task that must not end: one that does, or panics, is started again, after a pause, counted and logged.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::metrics::{Event, Metrics};

/// The first pause, and the longest: each is twice the one before, until a task has run for longer than the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Runs what `start` makes, and makes it again when it ends.
pub(super) async fn supervise<F>(name: &str, metrics: &Arc<Metrics>, mut start: impl FnMut() -> F) -> Infallible
where
    F: Future<Output = ()> + Send + 'static,
{
    let counters = metrics.worker();
    let mut pause = PAUSES.0;
    loop {
        let began = Instant::now();
        // Its end is waited for here, and with this future it ends.
        let mut task = JoinSet::new();
        task.spawn(start());
        let why = match task.join_next().await {
            Some(Err(error)) => error.to_string(),
            Some(Ok(())) | None => "it ended".to_owned(),
        };
        if began.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        counters.count(Event::TaskRestarts);
        tracing::error!("{name} is started again in {} ms: {why}", pause.as_millis());
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ends_is_started_again() {
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
        assert_eq!(third - began, PAUSES.0 * 3);
        assert_eq!(metrics.total(Event::TaskRestarts), 2);
    }
}
