//! A forecast against what came later: the second half of a record from its first.

use super::advice::{Advice, AdviceError, Side, advise, run_side};
use super::scenario::Scenario;
use crate::chain::{LoadError, Workload};
use crate::trace::{Pace, Sharing, Trace};

/// What was forecast from the first half, and what the second half says.
#[derive(Debug, Clone, PartialEq)]
pub struct BackTest {
    /// Sessions, or requests of a trace with absolute times, that the forecast knew.
    pub known: u64,
    /// The same of the half that was to be forecast.
    pub later: u64,
    /// From the first half.
    pub forecast: Advice,
    /// The second half on the fleet that was proposed.
    pub kept: Side,
    /// What would have been advised had the second half been known.
    pub hindsight: Advice,
}

impl BackTest {
    /// Points of hit rate that were forecast too many.
    pub fn found_error(&self) -> f64 {
        (self.forecast.proposed.outcome.hit_rate() - self.kept.outcome.hit_rate()) * 100.0
    }

    /// Dollars an hour of saving that were forecast too many.
    pub fn cash_error(&self) -> f64 {
        self.forecast.cash() - self.hindsight.cash()
    }
}

/// Why there is no back-test.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BackTestError {
    /// Nothing to halve.
    #[error("it has {0} sessions or requests, and a back-test needs two in each half")]
    TooShort(u64),
    /// A half cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A half has no answer.
    #[error("its {half} half: {error}")]
    Advice {
        /// Which.
        half: &'static str,
        /// Why.
        error: AdviceError,
    },
}

/// Forecasts the second half of a record from its first. Of sessions, which have no absolute time, halves are by their order in the file; both are loaded at
/// the scenario's rate. Of a trace with absolute times the forecast knows the first half of the time, and is compared with the whole, of which the
/// second half is counted.
///
/// # Errors
/// [`BackTestError`].
pub fn back_test(
    scenario: &Scenario,
    trace: &Trace,
    sharing: Sharing,
    near: (u32, u32),
) -> Result<BackTest, BackTestError> {
    let (first, second, known, later) = halves(trace)?;
    let (first, second) = (Workload::new(&first, sharing)?, Workload::new(&second, sharing)?);
    let advised = |half, work: &Workload, near| {
        advise(scenario, work, near).map_err(|error| BackTestError::Advice { half, error })
    };
    let forecast = advised("first", &first, near)?;
    let load = second.load(&scenario.load)?;
    let kept = run_side(scenario, &load, forecast.proposed.servers, true);
    let hindsight = advised("second", &second, (forecast.today.servers, forecast.proposed.servers))?;
    Ok(BackTest { known, later, forecast, kept, hindsight })
}

fn halves(trace: &Trace) -> Result<(Trace, Trace, u64, u64), BackTestError> {
    let part = |sessions| Trace { sessions, block_tokens: trace.block_tokens, pace: trace.pace };
    if trace.pace == Pace::Sessions {
        let count = trace.sessions.len();
        if count < 4 {
            return Err(BackTestError::TooShort(count as u64));
        }
        let (first, second) = trace.sessions.split_at(count / 2);
        return Ok((part(first.to_vec()), part(second.to_vec()), first.len() as u64, second.len() as u64));
    }
    let mut first = trace.sessions.clone();
    let end_s = first.iter().flat_map(|s| &s.requests).map(|r| r.at_s).fold(0.0, f64::max);
    first.iter_mut().for_each(|session| session.requests.retain(|request| request.at_s < end_s / 2.0));
    let count = |sessions: &[crate::trace::Session]| sessions.iter().map(|s| s.requests.len() as u64).sum::<u64>();
    let known = count(&first);
    let all = count(&trace.sessions);
    if known < 2 || all - known < 2 {
        return Err(BackTestError::TooShort(all));
    }
    Ok((part(first), trace.clone(), known, all - known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Request, Session};

    fn session(id: usize) -> Session {
        let request = |k: u64| Request { at_s: k as f64, prompt_tokens: 100, ..Request::default() };
        Session { id: id.to_string(), requests: (0..6).map(request).collect(), ..Session::default() }
    }

    #[test]
    fn sessions_are_halved_by_their_order_and_absolute_times_by_time() {
        let trace = Trace { block_tokens: 64, pace: Pace::Sessions, sessions: (0..5).map(session).collect() };
        let (first, second, known, later) = halves(&trace).unwrap();
        assert_eq!((known, later), (2, 3));
        assert_eq!((first.sessions.len(), second.sessions[0].id.as_str()), (2, "2"));
        let open = Trace { pace: Pace::Open, sessions: vec![session(0)], ..trace };
        let (first, second, known, later) = halves(&open).unwrap();
        // 0, 1 and 2 of 0 to 5 seconds are before 2.5.
        assert_eq!((known, later, first.sessions[0].requests.len(), second.sessions[0].requests.len()), (3, 3, 3, 6));
        let short = Trace { pace: Pace::Sessions, sessions: vec![session(0)], ..open };
        assert!(halves(&short).unwrap_err().to_string().contains("1 sessions"));
    }
}
