//! The history of the API's state, and the verdict on each answer.
//!
//! A change is certain once the API server has acknowledged it, and possible as soon as it was sent. So an answer is right if it
//! was or may have been true at some time between its query and its arrival. An answer that was true before is stale; it is
//! wrong if it is stale for longer than its limit, or was never true.

use std::time::{Duration, Instant};

use super::asker::{Answer, Asked, Log, Question};
use super::world::World;

/// The history of the true answers to some queries.
pub struct Ledger {
    questions: Vec<Question>,
    /// For each question, in the order of time.
    truths: Vec<Vec<Truth>>,
    world: World,
}

struct Truth {
    answer: Answer,
    /// Before this it was not so.
    from: Instant,
    /// After this it is not so any more.
    until: Option<Instant>,
}

/// Limits on the staleness of answers.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// While nothing is wrong.
    pub usual: Duration,
    /// During a fault, answers may be as old as its beginning.
    pub faults: Vec<Fault>,
}

/// A time in which changes may not be seen, the bound of its row with it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub from: Instant,
    pub until: Instant,
    /// Time limit for a stale answer during the fault.
    pub at_most: Duration,
    /// Time from which a stale answer must be marked as stale.
    pub marked_from: Option<Instant>,
}

/// Verdict on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    /// Stale for this time, within its limit.
    Stale(Duration),
    /// Stale for this time, above its limit.
    TooOld(Duration),
    /// Stale for this time, within its limit, without the extended error for stale data.
    Unmarked(Duration),
    /// Wrong: it was never true.
    Never,
    /// None came.
    Lost,
}

impl Verdict {
    pub fn is_wrong(self) -> bool {
        matches!(self, Self::TooOld(_) | Self::Unmarked(_) | Self::Never)
    }
}

/// The extended errors of an answer that may be stale: Stale Answer, Stale NXDOMAIN Answer (RFC 8914).
pub const MARKS: [u16; 2] = [3, 19];

impl Ledger {
    /// `world` is true now, and nothing before counts.
    pub fn new(questions: Vec<Question>, world: World, now: Instant) -> Self {
        let truth = |question: &Question| vec![Truth { answer: world.answer(question), from: now, until: None }];
        Self { truths: questions.iter().map(truth).collect(), questions, world }
    }

    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// Returns the state after the last change.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The API's state became `world` between `sent` and `acknowledged`.
    pub fn change(&mut self, world: World, sent: Instant, acknowledged: Instant) {
        for (question, truths) in self.questions.iter().zip(&mut self.truths) {
            let answer = world.answer(question);
            let last = truths.last_mut().expect("something was true from the beginning on");
            if last.answer != answer {
                last.until = Some(acknowledged);
                truths.push(Truth { answer, from: sent, until: None });
            }
        }
        self.world = world;
    }

    /// The verdict on one question.
    pub fn judge(&self, log: &Log, asked: &Asked, bounds: &Bounds) -> Verdict {
        let Some(got) = asked.got else { return Verdict::Lost };
        let answer = &*log.answers[got.answer];
        let known = self.truths[asked.question].iter().filter(|truth| truth.answer == *answer && truth.from <= got.at);
        // The last time that it was true; `None` while it still is.
        let Some(last) = known.map(|truth| truth.until).max_by_key(|until| until.map_or((1, None), |at| (0, Some(at))))
        else {
            return Verdict::Never;
        };
        let Some(untrue_since) = last.filter(|until| *until < asked.sent) else { return Verdict::Right };
        let age = asked.sent - untrue_since;
        if age <= bounds.usual {
            return Verdict::Stale(age);
        }
        let covers = |fault: &&Fault| {
            // A change right before a fault may be one that it kept from being seen.
            (fault.from..=fault.until).contains(&asked.sent)
                && untrue_since + bounds.usual >= fault.from
                && age <= fault.at_most
        };
        let Some(fault) = bounds.faults.iter().find(covers) else { return Verdict::TooOld(age) };
        let marked = got.ede.is_some_and(|code| MARKS.contains(&code));
        match fault.marked_from.is_some_and(|from| asked.sent >= from) && !marked {
            true => Verdict::Unmarked(age),
            false => Verdict::Stale(age),
        }
    }

    /// Returns whether an answer shows a change that was made after `instant`.
    pub fn is_of_after(&self, log: &Log, asked: &Asked, instant: Instant) -> bool {
        let Some(got) = asked.got else { return false };
        let answer = &*log.answers[got.answer];
        let truths = &self.truths[asked.question];
        let is_it = |truth: &&Truth| truth.answer == *answer && truth.from <= got.at;
        let (after, before): (Vec<&Truth>, Vec<&Truth>) = truths.iter().partition(|truth| truth.from >= instant);
        after.iter().any(is_it) && !before.iter().any(is_it)
    }

    /// A sentence about a wrong answer, for people.
    pub fn explain(&self, log: &Log, asked: &Asked, verdict: Verdict, begun: Instant) -> String {
        let seconds = |at: Instant| at.saturating_duration_since(begun).as_secs_f64();
        let Question { name, qtype } = &self.questions[asked.question];
        let said = asked.got.map(|got| format!("{:?} (EDE {:?})", log.answers[got.answer], got.ede));
        let last = self.truths[asked.question].iter().rev().filter(|truth| truth.from <= asked.sent).take(3);
        let true_then: Vec<String> = last
            .map(|truth| {
                format!("{:?} from {:.3} s to {:?}", truth.answer, seconds(truth.from), truth.until.map(seconds))
            })
            .collect();
        format!(
            "{verdict:?}: {name} type {qtype}, asked at {:.3} s: {}; true then, the last first: {}",
            seconds(asked.sent),
            said.as_deref().unwrap_or("nothing"),
            true_then.join(", then ")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::asker::Got;
    use super::super::world::{A, Endpoint, Slice, below};
    use super::*;

    /// The Service `web` with one endpoint, 10.77.0.LAST, or none.
    fn world(last: Option<u8>) -> World {
        let mut world = World::default();
        world.services.insert("web".into());
        let endpoint = |last| Endpoint { address: Ipv4Addr::new(10, 77, 0, last), hostname: None };
        let endpoints = last.map(endpoint).into_iter().collect();
        world.slices.insert("web".into(), Slice { service: "web".into(), port: 80, endpoints });
        world
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// 10.77.0.1 is replaced by .2 at 10.0 to 10.1 s, by nothing at 20.0 to 20.1 s, and by .1 at 30.0 to 30.1 s.
    fn ledger(begun: Instant) -> Ledger {
        let mut ledger = Ledger::new(vec![below("web", A)], world(Some(1)), begun);
        for (at, last) in [(10.0, Some(2)), (20.0, None), (30.0, Some(1))] {
            ledger.change(world(last), begun + seconds(at), begun + seconds(at + 0.1));
        }
        ledger
    }

    #[test]
    fn finds_wrong_answers() {
        use Verdict::{Lost, Never, Right, Stale, TooOld, Unmarked};
        let begun = Instant::now();
        let ledger = ledger(begun);
        // From 14 to 18 s no change is seen; stale answers after 16 s must be marked.
        let at = |at| begun + seconds(at);
        let fault = Fault { from: at(9.5), until: at(18.0), at_most: seconds(7.2), marked_from: Some(at(16.0)) };
        let with_fault = Bounds { usual: seconds(1.0), faults: vec![fault] };
        let without = Bounds { faults: vec![], ..with_fault.clone() };
        let one = || Answer::of(["A 10.77.0.1".into()]);
        let two = || Answer::of(["A 10.77.0.2".into()]);
        let both = || Answer::of(["A 10.77.0.1".into(), "A 10.77.0.2".into()]);
        let failed = || Answer { rcode: 2, records: vec![] };
        for (sent, answer, ede, usual, faulty) in [
            (1.0, Some(one()), None, Right, Right),
            (1.0, None, None, Lost, Lost),
            // Never true of it, or not yet.
            (1.0, Some(Answer::of(["A 10.77.0.9".into()])), None, Never, Never),
            (1.0, Some(both()), None, Never, Never),
            (1.0, Some(failed()), None, Never, Never),
            (1.0, Some(Answer { rcode: 0, records: vec![] }), None, Never, Never),
            (9.0, Some(two()), None, Never, Never),
            (9.0, Some(Answer::of([])), None, Never, Never),
            // Between the request and its acknowledgement both are right; so is what comes while a question is asked.
            (10.05, Some(one()), None, Right, Right),
            (10.05, Some(two()), None, Right, Right),
            (9.995, Some(two()), None, Right, Right),
            // Too old, but for the fault; and a mark where it is asked for.
            (11.0, Some(one()), None, Stale(seconds(0.9)), Stale(seconds(0.9))),
            (12.1, Some(one()), None, TooOld(seconds(2.0)), Stale(seconds(2.0))),
            (17.1, Some(one()), None, TooOld(seconds(7.0)), Unmarked(seconds(7.0))),
            (17.1, Some(one()), Some(14), TooOld(seconds(7.0)), Unmarked(seconds(7.0))),
            (17.1, Some(one()), Some(3), TooOld(seconds(7.0)), Stale(seconds(7.0))),
            (17.5, Some(one()), Some(3), TooOld(seconds(7.4)), TooOld(seconds(7.4))),
            (19.1, Some(one()), Some(3), TooOld(seconds(9.0)), TooOld(seconds(9.0))),
            // A state that came back is right again; one in between is not.
            (31.0, Some(one()), None, Right, Right),
            (32.0, Some(two()), None, TooOld(seconds(11.9)), TooOld(seconds(11.9))),
        ] {
            let mut log = Log::default();
            let got = answer.clone().map(|answer| {
                log.answers.push(answer.into());
                Got { at: at(sent + 0.01), answer: 0, ede }
            });
            let asked = Asked { question: 0, sent: at(sent), got };
            let rounded = |verdict| match verdict {
                TooOld(age) => TooOld(round(age)),
                Stale(age) => Stale(round(age)),
                Unmarked(age) => Unmarked(round(age)),
                other => other,
            };
            for (bounds, expected) in [(&without, usual), (&with_fault, faulty)] {
                let verdict = rounded(ledger.judge(&log, &asked, bounds));
                assert_eq!(verdict, expected, "{answer:?} at {sent} s");
                assert_eq!(verdict.is_wrong(), matches!(expected, Never | TooOld(_) | Unmarked(_)));
            }
        }
    }

    fn round(age: Duration) -> Duration {
        Duration::from_millis((age.as_secs_f64() * 1000.0).round() as u64)
    }

    #[test]
    fn records_seen_change() {
        let begun = Instant::now();
        let ledger = ledger(begun);
        let mut log = Log::default();
        log.answers = ["A 10.77.0.1", "A 10.77.0.2"].map(|record| Answer::of([record.into()]).into()).to_vec();
        let asked = |sent, answer| {
            let sent = begun + seconds(sent);
            Asked { question: 0, sent, got: Some(Got { at: sent, answer, ede: None }) }
        };
        let after = begun + seconds(9.0);
        assert!(ledger.is_of_after(&log, &asked(11.0, 1), after), "a state that is new");
        assert!(!ledger.is_of_after(&log, &asked(9.5, 1), after), "before it can be");
        assert!(!ledger.is_of_after(&log, &asked(31.0, 0), after), "one that was so before as well");
    }
}
