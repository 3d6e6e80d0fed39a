//! When each request of a session starts.

use super::Session;

/// Sessions start within this many seconds, at seeded offsets.
const START_WINDOW_S: f64 = 3600.0;

/// The start of session number `index` (in the order of the file), in seconds: uniform over an hour, from a seed.
pub fn start_offset_s(seed: u64, index: u64) -> f64 {
    let state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index.wrapping_add(1)));
    let u = (crate::seeded::finish(state) >> 11) as f64 / (1u64 << 53) as f64;
    START_WINDOW_S * u
}

/// Starts of a session's requests, in seconds from its own start, when request `k` takes `service_s(k)`: a closed loop of request and pause.
///
/// The pause before a request is its `think_s`, counted from the end of the last earlier request of its flow that has an `api_s`. Where its
/// `think_s` or its own `api_s` was not recorded, it is what the record shows since the request before it, never below 0.
/// A sub-agent starts as long after the session's last request before it as was recorded.
pub fn starts_s(session: &Session, mut service_s: impl FnMut(usize) -> f64) -> Vec<f64> {
    let requests = &session.requests;
    let mut starts = vec![0.0; requests.len()];
    let mut flows: Vec<Flow> = Vec::new();
    for (k, request) in requests.iter().enumerate() {
        let flow = request.flow as usize;
        if flows.len() <= flow {
            flows.resize_with(flow + 1, Flow::default);
        }
        let start_s = match flows[flow].last {
            None => {
                let parent = flows.first().and_then(|main| main.last);
                parent.map_or(request.at_s, |p| starts[p] + (request.at_s - requests[p].at_s).max(0.0))
            }
            Some(before) => {
                let loop_s = match (request.think_s, request.api_s, flows[flow].ended_s) {
                    (Some(think_s), Some(_), Some(ended_s)) => ended_s + think_s,
                    _ => {
                        let api_s = requests[before].api_s.unwrap_or(0.0);
                        let pause_s = (request.at_s - requests[before].at_s - api_s).max(0.0);
                        let took_s = if requests[before].api_s.is_some() { service_s(before) } else { 0.0 };
                        starts[before] + took_s + pause_s
                    }
                };
                loop_s.max(starts[before])
            }
        };
        starts[k] = start_s;
        flows[flow].last = Some(k);
        if request.api_s.is_some() {
            flows[flow].ended_s = Some(start_s + service_s(k));
        }
    }
    starts
}

#[derive(Default)]
struct Flow {
    /// Its last request so far.
    last: Option<usize>,
    /// When its last request with an `api_s` ended.
    ended_s: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;

    fn request(at_s: f64, api_s: Option<f64>, think_s: Option<f64>, flow: u32) -> Request {
        Request { at_s, api_s, think_s, flow, ..Request::default() }
    }

    #[test]
    fn pauses_are_kept_when_requests_take_longer_or_shorter() {
        let session = Session {
            requests: vec![
                request(0.0, Some(4.0), Some(0.0), 0),
                request(9.0, Some(2.0), Some(5.0), 0),
                // No api_time of its own: the pause is what the record shows, 20 - 9 - 2.
                request(20.0, None, Some(3.0), 0),
                // Counts from the end of the last request with an api_time.
                request(31.0, Some(1.0), Some(20.0), 0),
                request(33.0, Some(1.0), Some(0.5), 1),
                request(34.0, Some(1.0), Some(0.5), 1),
                // The record shows less than no pause.
                request(31.5, None, None, 0),
            ],
            ..Session::default()
        };
        let recorded = starts_s(&session, |k| session.requests[k].api_s.unwrap_or(0.0));
        assert_eq!(recorded, [0.0, 9.0, 20.0, 31.0, 33.0, 34.5, 32.0]);
        let instant = starts_s(&session, |_| 0.0);
        assert_eq!(instant, [0.0, 5.0, 14.0, 25.0, 27.0, 27.5, 25.0]);
    }

    #[test]
    fn offsets_are_seeded_and_spread_over_the_hour() {
        assert_eq!(start_offset_s(7, 3), start_offset_s(7, 3));
        let all: Vec<f64> = (0..1000).map(|i| start_offset_s(7, i)).collect();
        assert!(all.iter().all(|s| (0.0..3600.0).contains(s)));
        assert!((1650.0..1950.0).contains(&(all.iter().sum::<f64>() / 1000.0)));
        // SplitMix64's first output from state 0 is 0xe220a8397b1dcdaf.
        assert_eq!(start_offset_s(0, 0), 3600.0 * ((0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / (1u64 << 53) as f64));
    }
}
