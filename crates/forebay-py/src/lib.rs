//! The native half of the Python package `forebay`: one file for each verb, which converts arguments, releases the GIL and calls the client.
//!
//! Memory is shared and never copied here: Python sees the client's regions through the buffer protocol and DLPack, and the client sees Python's
//! buffers as slices. It decides nothing: what deserves a unit test lives in the client, what reads well in Python lives in `python/forebay`.

mod block;
mod buffers;
mod call;
mod client;
mod dlpack;
mod errors;
mod forget;
mod get;
mod hash;
mod hints;
mod jobs;
mod keys;
mod lent;
mod matching;
mod moving;
mod names;
mod namespace;
mod plan;
mod presence;
mod put;
mod queue;
mod region;
mod stats;
mod transfers;
mod words;

use pyo3::prelude::*;

#[pymodule]
fn _forebay(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<client::Client>()?;
    module.add_class::<namespace::Namespace>()?;
    module.add_class::<block::Block>()?;
    module.add_class::<region::Region>()?;
    module.add_class::<region::Spans>()?;
    module.add_class::<lent::LentMemory>()?;
    module.add_class::<lent::Place>()?;
    module.add_class::<matching::Matched>()?;
    module.add_class::<plan::Plan>()?;
    module.add_class::<queue::CallQueue>()?;
    module.add_class::<jobs::Jobs>()?;
    module.add_class::<keys::Hashes>()?;
    module.add_class::<presence::Presence>()?;
    module.add_function(wrap_pyfunction!(hash::hash_file, module)?)?;
    module.add_function(wrap_pyfunction!(hash::hash_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(call::forked, module)?)?;
    Ok(())
}
