//! What a token costs: policies, traces, cost curves
