//! The chain from request to token, by small cases worked by hand and by what must hold of any run.

use forebay_tokenomics::book::Book;
use forebay_tokenomics::chain::{Engine, Fleet, Limit, Load, LoadParams, Outcome, Store, Workload, simulate};
use forebay_tokenomics::cost::CostCurve;
use forebay_tokenomics::trace::{FleetParams, Sharing, Trace, generate_fleet, parse_trace};

/// An engine that computes 1,000 tokens a second at any depth, and makes a token in 10 ms, whoever else does.
fn engine() -> Engine {
    let model = Book::built_in().model("llama-3.1-8b").expect("what a test gives is well-formed").clone();
    let reads = model.weights_read_bytes(1.0);
    Engine {
        gpus: 2,
        curve: CostCurve { c0_s: 0.0, c1_s: 0.001, c2_s: 0.0, bounded_s: 0.0, bounded_tokens: 0, step_tokens: 1 << 20 },
        // Decoding costs what the weights take to read and what computing a token does.
        output_s: -0.001,
        memory_bandwidth: reads / 0.010,
        kv_tokens: 1 << 20,
        running_max: 64,
        host_tokens: 0,
        host_bandwidth: 1e12,
        model,
    }
}

fn store(bandwidth: f64) -> Store {
    Store {
        memory_tokens: 0,
        drive_tokens: 1 << 30,
        drive_bandwidth: bandwidth,
        memory_bandwidth: f64::INFINITY,
        link_bandwidth: 1e15,
        first_byte_s: 0.0,
    }
}

/// When, prompt, output, blocks, and the pause before it where there is one.
type Asked<'a> = (f64, u64, u64, &'a [u64], Option<f64>);

fn trace(sessions: &[&[Asked<'_>]]) -> Trace {
    let lines = sessions.iter().map(|requests| {
        let requests = requests.iter().map(|(t, input, output, ids, think)| {
            let think = think.map_or(String::new(), |s| format!(r#","api_time":1.0,"think_time":{s}"#));
            format!(r#"{{"t":{t},"in":{input},"out":{output},"hash_ids":{ids:?}{think}}}"#)
        });
        format!(r#"{{"id":"s","block_size":512,"requests":[{}]}}"#, requests.collect::<Vec<_>>().join(","))
    });
    parse_trace(lines.collect::<Vec<_>>().join("\n").as_bytes()).expect("what a test gives is well-formed")
}

fn run(trace: &Trace, fleet: &Fleet, hours: f64) -> Outcome {
    let work = Workload::new(trace, Sharing::Private).expect("what a test gives is well-formed");
    let params = LoadParams { sessions_per_hour: None, speed: None, hours, seed: 1, bootstrap: false };
    let load: Load<'_> = work.load(&params).expect("what a test gives is well-formed");
    simulate(fleet, &load, 0.0)
}

fn one(engine: Engine, store: Option<Store>) -> Fleet {
    Fleet { engine, engines: 1, engines_per_server: 1, store }
}

fn near(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() < 1e-3 * wanted.abs().max(0.01)
}

#[test]
fn a_session_of_two_requests_by_hand() {
    // 1,025 tokens, 1.025 s to the first token. 11 tokens: ten steps of 10 ms and a little for reading KV (1,030 x 131,072 B are 0.9 % of the weights).
    // Its next request, 2 s later, finds two of its three whole chunks and computes 513 tokens.
    let asked = trace(&[&[(0.0, 1025, 11, &[1, 2], Some(0.0)), (10.0, 1537, 1, &[1, 2, 3], Some(2.0))]]);
    let out = run(&asked, &one(engine(), None), 4.0);
    assert_eq!((out.requests, out.tokens.gpu, out.tokens.fresh, out.output_tokens), (2, 1024, 1025 + 513, 12));
    assert!(near(out.ttft_s[0], 0.513) && near(out.ttft_s[1], 1.025), "{:?}", out.ttft_s);
    let itl_s = out.itl(0.5);
    assert!((0.0099..0.0104).contains(&itl_s), "{itl_s}");
    // Two GPUs, busy with prompts for 1.538 s.
    assert!(near(out.prefill_gpu_s, 2.0 * 1.538));
}

#[test]
fn what_gpu_memory_cannot_keep_comes_from_the_drives_when_that_is_sooner() {
    // Room for one prompt: the second session drives the first one's KV out, which comes back 1,000 s later.
    let prompt: &[u64] = &[1, 2, 3, 4];
    let asked =
        trace(&[&[(0.0, 2049, 1, prompt, None), (5000.0, 2049, 1, prompt, None)], &[(0.0, 2049, 1, prompt, None)]]);
    let small = Engine { kv_tokens: 5 * 512, ..engine() };
    let without = run(&asked, &one(small.clone(), None), 4.0);
    assert_eq!((without.tokens.cached(), without.tokens.fresh), (0, 3 * 2049));
    // 2,048 tokens x 131,072 B at 268 MB/s: 1.0 s on the way, 2.048 s to compute.
    let fast = run(&asked, &one(small.clone(), Some(store(268_435_456.0))), 4.0);
    assert_eq!((fast.tokens.drive, fast.tokens.fresh, fast.written_tokens), (2048, 2 * 2049 + 1, 2 * 2048));
    assert!(near(fast.ttft_s[0], 1.001), "{:?}", fast.ttft_s);
    assert!(near(fast.saved_gpu_s, 2.0 * 2.048) && near(fast.stalled_gpu_s, 2.0 * 1.0));
    // At a tenth of that, computing is sooner, and Forebay costs nothing.
    let slow = run(&asked, &one(small, Some(store(26_843_545.0))), 4.0);
    assert_eq!((slow.tokens.drive, slow.recomputed_tokens), (0, 2048));
    assert_eq!(slow.ttft_s, without.ttft_s);
    // Idle drives bind all the same: nothing they have is there in time. Of fast ones everything is.
    let drives =
        |out: &Outcome| out.limits(0.0).iter().find(|(limit, _)| *limit == Limit::Drives).map(|(_, used)| *used);
    assert_eq!(drives(&slow), Some(1.0));
    assert!(drives(&fast).is_some_and(|used| used < 0.01));
}

#[test]
fn a_block_on_its_way_is_no_hit_and_is_counted_apart() {
    // A sub-agent asks for the same prompt half a second after: computing takes 2 s, in steps of half a second.
    let text = r#"{"id":"s","block_size":512,"requests":[{"t":0,"in":2049,"out":1,"hash_ids":[1,2,3,4]},{"t":0.5,"requests":[{"t":0,"in":2049,"out":1,"hash_ids":[1,2,3,4]}]}]}"#;
    let steps = CostCurve { step_tokens: 512, ..engine().curve };
    let out = run(&parse_trace(text.as_bytes()).unwrap(), &one(Engine { curve: steps, ..engine() }, None), 4.0);
    assert_eq!((out.tokens.cached(), out.in_flight_tokens), (0, 2048));
}

#[test]
fn a_request_larger_than_an_engine_is_refused_and_its_session_goes_on() {
    let asked = trace(&[&[(0.0, 5000, 1, &[1], Some(0.0)), (9.0, 500, 1, &[], Some(1.0))]]);
    let out = run(&asked, &one(Engine { kv_tokens: 2048, ..engine() }, None), 1.0);
    assert_eq!((out.refused, out.requests), (1, 1));
    assert_eq!(out.goodput(60.0, 60.0), 0.5);
}

#[test]
fn requests_wait_for_gpu_memory_in_their_order() {
    // Two sub-agents at once, room for one: the second one's first token comes behind the first one's answer of 100 tokens.
    let text = r#"{"id":"s","block_size":512,"requests":[{"t":0,"in":1000,"out":101,"hash_ids":[1]},{"t":0,"requests":[{"t":0,"in":1000,"out":1,"hash_ids":[9]}]}]}"#;
    let out = run(&parse_trace(text.as_bytes()).unwrap(), &one(Engine { kv_tokens: 3 * 512, ..engine() }, None), 1.0);
    let second = out.ttft_s[1];
    assert!((2.9..3.2).contains(&second), "{second}");
    assert!(out.blocked_gpu_s > 2.0 * 0.9);
}

#[test]
fn windows_and_states_hold_gpu_memory_while_a_request_runs() {
    // States of 37.7 MB are 1,536 tokens of KV, three chunks beside the two of prompt and answer: of nine chunks one request takes five, and the other waits.
    let text = r#"{"id":"s","block_size":512,"requests":[{"t":0,"in":900,"out":101,"hash_ids":[1]},{"t":0,"requests":[{"t":0,"in":900,"out":1,"hash_ids":[9]}]}]}"#;
    let trace = parse_trace(text.as_bytes()).unwrap();
    let model = Book::built_in().model("qwen3-next-80b-a3b").unwrap().clone();
    let blocked_gpu_s = |chunks: u64| {
        let engine = Engine { kv_tokens: chunks * 512, model: model.clone(), ..engine() };
        run(&trace, &one(engine, None), 1.0).blocked_gpu_s
    };
    assert!(blocked_gpu_s(9) > 0.0);
    assert_eq!(blocked_gpu_s(10), 0.0);
}

#[test]
fn a_run_repeats_to_the_digit_and_its_tokens_add_up() {
    let trace = generate_fleet(&FleetParams { sessions: 40, seed: 1 });
    let prompts: u64 = trace.sessions.iter().flat_map(|s| &s.requests).map(|r| r.prompt_tokens).sum();
    for (host_tokens, kv_tokens) in [(0, 400_000), (200_000, 300_000)] {
        let engine = Engine { host_tokens, kv_tokens, ..engine() };
        let fleet = |store| Fleet { engine: engine.clone(), engines: 2, engines_per_server: 1, store };
        let [with, again] = [0, 1].map(|_| run(&trace, &fleet(Some(store(1e10))), 8.0));
        assert_eq!(with, again);
        let without = run(&trace, &fleet(None), 8.0);
        for out in [&with, &without] {
            assert!(out.tokens.prompt() <= prompts && out.beyond > 0 && out.refused == 0);
            assert_eq!(out.requests as usize, out.ttft_s.len());
        }
        assert_eq!(without.tokens.forebay(), 0);
        assert!(with.hit_rate() > without.hit_rate() && with.requests > without.requests && with.tokens.forebay() > 0);
        let limits = with.limits(0.1);
        assert!(limits.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }
    // With time enough nothing is cut off, and every token is somewhere.
    let all = run(&trace, &Fleet { engine: engine(), engines: 2, engines_per_server: 1, store: None }, 1000.0);
    assert_eq!((all.tokens.prompt(), all.beyond, all.refused), (prompts, 0, 0));
}

#[test]
fn a_trace_with_absolute_times_is_an_open_loop_that_can_run_faster() {
    let line = |ms: u64, ids: &[u64]| {
        format!(r#"{{"timestamp":{ms},"input_length":1025,"output_length":2,"hash_ids":{ids:?}}}"#)
    };
    let text = [line(0, &[1, 2]), line(9000, &[1, 2]), line(90_000, &[5, 6])].join("\n");
    let trace = parse_trace(text.as_bytes()).unwrap();
    let work = Workload::new(&trace, Sharing::Private).unwrap();
    let run = |speed| {
        let params = LoadParams { sessions_per_hour: None, speed, hours: 1.0, seed: 1, bootstrap: false };
        let load = work.load(&params).unwrap();
        (load.span_s, simulate(&Fleet { engine: engine(), engines: 2, engines_per_server: 2, store: None }, &load, 0.0))
    };
    let (span_s, out) = run(None);
    // The second goes where the first one's KV lies.
    assert_eq!((span_s, out.tokens.gpu, out.requests), (90.0, 1024, 2));
    // Nine seconds become 0.9: the first prompt is not computed yet, and the other engine is free.
    let (span_s, out) = run(Some(10.0));
    assert_eq!((span_s, out.tokens.gpu), (9.0, 0));
}
