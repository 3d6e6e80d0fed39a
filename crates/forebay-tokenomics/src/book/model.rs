//! Model rows: from a model's published shape to its parameters, KV bytes and operations, by formulas.

use super::BookError;
use super::row::Reader;

/// Multi-head latent attention: one latent and one rotary key a token and layer instead of keys and values
/// (DeepSeek-V2, arXiv:2405.04434, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latent {
    /// Rank of the query's compression.
    pub q_rank: u32,
    /// Rank of the latent that is cached.
    pub kv_rank: u32,
    /// Rotary dimension, cached beside the latent and shared by heads.
    pub rope: u32,
    /// Dimension of a head's key without rotation.
    pub nope: u32,
    /// Dimension of a head's value.
    pub value: u32,
}

/// A mixture of experts in the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Routed experts of a layer.
    pub routed: u32,
    /// Of them, those a token goes through.
    pub active: u32,
    /// Experts that every token goes through.
    pub shared: u32,
    /// Inner size of an expert.
    pub ffn: u32,
    /// Leading layers that have one dense feed-forward part instead.
    pub dense_layers: u32,
}

/// Layers that look back no further than some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many layers.
    pub layers: u32,
    /// How far they look back.
    pub tokens: u32,
}

/// Layers with a state of fixed size instead of KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recurrent {
    /// How many layers.
    pub layers: u32,
    /// Numbers of a layer's state.
    pub state_numbers: u32,
    /// Parameters of a layer's mixing, which stands in for attention.
    pub params: u32,
}

/// Attention to chosen tokens only (DeepSeek-V3.2, arXiv:2512.02556): an indexer looks at all of them with few small heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sparse {
    /// Tokens that are attended to.
    pub top: u32,
    /// Heads of the indexer.
    pub heads: u32,
    /// Their size; one key of it a token and layer is cached.
    pub head_size: u32,
}

/// A model, as its publishers describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The word for `--model`.
    pub name: String,
    /// Layers, those with windows and states counted.
    pub layers: u32,
    /// Width of the stream between layers.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Heads of keys and values; those of queries with latent attention.
    pub kv_heads: u32,
    /// Dimension a query and a key are compared in, a head.
    pub score_dim: u32,
    /// Dimension of a value, a head.
    pub value_dim: u32,
    /// Inner size of a dense feed-forward part (gated: three matrices).
    pub ffn: u32,
    /// Words.
    pub vocab: u32,
    /// The matrix of words is one for input and output.
    pub tied: bool,
    /// Queries and keys are normalised a head.
    pub head_norms: bool,
    /// Latent attention.
    pub latent: Option<Latent>,
    /// Experts.
    pub experts: Option<Experts>,
    /// Sliding windows.
    pub window: Option<Window>,
    /// Recurrent layers.
    pub recurrent: Option<Recurrent>,
    /// Sparse attention.
    pub sparse: Option<Sparse>,
    /// Bytes of one number of KV.
    pub kv_number_bytes: u32,
    /// Bytes of one parameter.
    pub weight_bytes: u32,
    /// Where the shape is published.
    pub source: String,
}

/// Operations of prefill, from a model's shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Operations a token in matrices.
    pub token_flops: f64,
    /// Operations a pair of a token and one it looks back to, in layers that look at all.
    pub pair_flops: f64,
    /// Operations a pair in layers that look back `bounded_tokens` at most.
    pub bounded_pair_flops: f64,
    /// See there; 0 without such layers.
    pub bounded_tokens: u64,
    /// Operations for each token of output beside `token_flops`: the matrix of words.
    pub output_flops: f64,
}

impl Model {
    pub(crate) fn read(name: &str, row: &Reader<'_>) -> Result<Self, BookError> {
        let source = row.source()?;
        let bytes = |key| row.parsed(key, dtype_bytes)?.ok_or(()).or_else(|()| row.whole(key));
        let (layers, heads) = (row.whole("layers")?, row.whole("heads")?);
        let latent = latent(row)?;
        let (score_dim, value_dim) = match latent {
            Some(latent) => (latent.nope + latent.rope, latent.value),
            None => (row.whole("head_size")?, row.whole("head_size")?),
        };
        let model = Model {
            name: name.to_owned(),
            layers,
            hidden: row.whole("hidden")?,
            heads,
            kv_heads: if latent.is_some() { heads } else { row.whole("kv_heads")? },
            score_dim,
            value_dim,
            ffn: row.whole("ffn")?,
            vocab: row.whole("vocab")?,
            tied: row.flag_or("tied", false)?,
            head_norms: row.flag_or("head_norms", false)?,
            latent,
            experts: experts(row)?,
            window: pair(row, "window_layers", "window_tokens")?.map(|(layers, tokens)| Window { layers, tokens }),
            recurrent: recurrent(row)?,
            sparse: sparse(row)?,
            kv_number_bytes: bytes("kv_dtype")?,
            weight_bytes: bytes("weight_dtype")?,
            source,
        };
        let other = model.window.map_or(0, |w| w.layers) + model.recurrent.map_or(0, |r| r.layers);
        row.check("layers", other <= layers, || {
            format!("is {layers}, fewer than its window and recurrent layers together")
        })?;
        let experts = model.experts;
        row.check("experts_active", experts.is_none_or(|e| e.active <= e.routed), || {
            "is more than there are experts".into()
        })?;
        row.check("dense_layers", experts.is_none_or(|e| e.dense_layers <= layers), || {
            "is more than there are layers".into()
        })?;
        row.check("sparse_top", !(model.sparse.is_some() && model.window.is_some()), || {
            "stands beside windows, and this program knows one bound of looking back a model".into()
        })?;
        Ok(model)
    }

    /// Layers whose KV grows with every token.
    pub fn full_layers(&self) -> u32 {
        self.layers - self.window.map_or(0, |w| w.layers) - self.recurrent.map_or(0, |r| r.layers)
    }

    /// Numbers of KV of one token in one layer: keys and values of each KV head (Ainslie et al., GQA, arXiv:2305.13245), or latent and rotary
    /// key ([`Latent`]), and the indexer's key ([`Sparse`]).
    fn kv_numbers(&self) -> u64 {
        let attended = match self.latent {
            Some(latent) => u64::from(latent.kv_rank + latent.rope),
            None => u64::from(self.kv_heads) * u64::from(self.score_dim + self.value_dim),
        };
        attended + self.sparse.map_or(0, |sparse| u64::from(sparse.head_size))
    }

    /// KV that grows by one token, in bytes: layers x numbers x bytes of a number. Layers with windows or states add [`Model::kv_bytes_fixed`].
    pub fn kv_bytes_per_token(&self) -> u64 {
        u64::from(self.full_layers()) * self.kv_numbers() * u64::from(self.kv_number_bytes)
    }

    /// KV beside that of a sequence longer than every window, in bytes: windows full of KV, and one snapshot of each state.
    pub fn kv_bytes_fixed(&self) -> u64 {
        let windows = self.window.map_or(0, |w| u64::from(w.layers) * u64::from(w.tokens) * self.kv_numbers());
        let states = self.recurrent.map_or(0, |r| u64::from(r.layers) * u64::from(r.state_numbers));
        (windows + states) * u64::from(self.kv_number_bytes)
    }

    /// The same in tokens of KV, rounded up: what it takes of a memory that is counted in them. 0 for a model without KV that grows.
    pub fn kv_tokens_fixed(&self) -> u64 {
        self.kv_bytes_fixed()
            .checked_div(self.kv_bytes_per_token())
            .map_or(0, |_| self.kv_bytes_fixed().div_ceil(self.kv_bytes_per_token()))
    }

    /// Parameters of one layer's attention: query, key, value and output matrices; with latent attention their factors.
    fn attention_params(&self) -> f64 {
        let (hidden, heads) = (f64::from(self.hidden), f64::from(self.heads));
        let sparse = |q_rank: f64| {
            self.sparse.map_or(0.0, |s| {
                let (heads, size) = (f64::from(s.heads), f64::from(s.head_size));
                q_rank * heads * size + hidden * (size + heads)
            })
        };
        match self.latent {
            Some(l) => {
                let [q, kv, rope, nope, value] = [l.q_rank, l.kv_rank, l.rope, l.nope, l.value].map(f64::from);
                let queries = hidden * q + q * heads * (nope + rope);
                let keys = hidden * (kv + rope) + kv * heads * (nope + value);
                queries + keys + heads * value * hidden + q + kv + sparse(q)
            }
            None => {
                let [score, value, kv_heads] = [self.score_dim, self.value_dim, self.kv_heads].map(f64::from);
                let norms = if self.head_norms { 2.0 * score } else { 0.0 };
                hidden * (heads * score + kv_heads * (score + value) + heads * value) + norms + sparse(hidden)
            }
        }
    }

    /// Parameters outside of the matrices of words: all there are, and those a token goes through.
    fn layer_params(&self) -> (f64, f64) {
        let (hidden, layers) = (f64::from(self.hidden), f64::from(self.layers));
        let recurrent = self.recurrent.map_or(0.0, |r| f64::from(r.layers));
        let mixing = (layers - recurrent) * self.attention_params()
            + self.recurrent.map_or(0.0, |r| f64::from(r.layers) * f64::from(r.params));
        let common = mixing + layers * 2.0 * hidden + hidden;
        let dense = 3.0 * hidden * f64::from(self.ffn);
        let Some(experts) = self.experts else { return (common + layers * dense, common + layers * dense) };
        let first = f64::from(experts.dense_layers);
        let one = 3.0 * hidden * f64::from(experts.ffn);
        let always = common
            + first * dense
            + (layers - first) * (f64::from(experts.shared) * one + hidden * f64::from(experts.routed));
        let of = |n: u32| always + (layers - first) * f64::from(n) * one;
        (of(experts.routed), of(experts.active))
    }

    fn word_params(&self) -> f64 {
        f64::from(self.vocab) * f64::from(self.hidden)
    }

    /// All parameters: matrices, norms, and the matrix of words once or twice.
    pub fn params(&self) -> f64 {
        self.layer_params().0 + self.word_params() * if self.tied { 1.0 } else { 2.0 }
    }

    /// Parameters that a token goes through, matrices of words counted as in [`Model::params`].
    pub fn active_params(&self) -> f64 {
        self.layer_params().1 + self.word_params() * if self.tied { 1.0 } else { 2.0 }
    }

    /// Bytes of all weights.
    pub fn weights_bytes(&self) -> f64 {
        self.params() * f64::from(self.weight_bytes)
    }

    /// Bytes of weights that a step of `tokens` tokens reads: all dense ones, and of each layer's experts those that at least one token is
    /// sent to, when tokens choose evenly and apart: routed x (1 - (1 - active / routed)^tokens). The input's matrix of words is looked up, not read.
    pub fn weights_read_bytes(&self, tokens: f64) -> f64 {
        let (all, active) = self.layer_params();
        let read = match self.experts {
            None => all,
            Some(e) => {
                let (routed, chosen) = (f64::from(e.routed), f64::from(e.active));
                let one = (all - active) / (routed - chosen).max(1.0);
                active + one * (routed * (1.0 - (1.0 - chosen / routed).powf(tokens.max(1.0))) - chosen).max(0.0)
            }
        };
        (read + self.word_params()) * f64::from(self.weight_bytes)
    }

    /// Operations: 2 for each parameter a token goes through, and 2 x (score + value dimension) for each head, layer and pair of tokens
    /// (Kaplan et al., arXiv:2001.08361, section 2.1, without the matrices of words: the input's is a lookup, the output's runs once a token of
    /// output). An indexer compares every pair; the layers behind it, and those with windows, only as many as their bound.
    pub fn work(&self) -> Work {
        let per_layer = 2.0 * f64::from(self.heads) * f64::from(self.score_dim + self.value_dim);
        let full = f64::from(self.full_layers()) * per_layer;
        let (pair_flops, bounded_pair_flops, bounded_tokens) = match (self.sparse, self.window) {
            (Some(s), _) => {
                let indexer = 2.0 * f64::from(self.full_layers()) * f64::from(s.heads) * f64::from(s.head_size);
                (indexer, full, u64::from(s.top))
            }
            (None, Some(w)) => (full, f64::from(w.layers) * per_layer, u64::from(w.tokens)),
            (None, None) => (full, 0.0, 0),
        };
        let token_flops = 2.0 * self.layer_params().1;
        Work { token_flops, pair_flops, bounded_pair_flops, bounded_tokens, output_flops: 2.0 * self.word_params() }
    }
}

fn dtype_bytes(text: &str) -> Result<u32, String> {
    match text {
        "fp32" => Ok(4),
        "bf16" | "fp16" => Ok(2),
        "fp8" | "int8" => Ok(1),
        _ => Err(format!("is {text:?}; write one of bf16, fp16, fp8, int8, fp32")),
    }
}

/// Two keys that go together.
fn pair(row: &Reader<'_>, key: &str, with: &str) -> Result<Option<(u32, u32)>, BookError> {
    match row.whole_or(key, 1, Some(0))? {
        0 => Ok(None),
        n => Ok(Some((n, row.whole(with)?))),
    }
}

fn latent(row: &Reader<'_>) -> Result<Option<Latent>, BookError> {
    let Some((kv_rank, rope)) = pair(row, "mla_kv_rank", "mla_rope")? else { return Ok(None) };
    let [q_rank, nope, value] = ["mla_q_rank", "mla_nope", "mla_value"].map(|key| row.whole(key));
    Ok(Some(Latent { q_rank: q_rank?, kv_rank, rope, nope: nope?, value: value? }))
}

fn experts(row: &Reader<'_>) -> Result<Option<Experts>, BookError> {
    let Some((routed, active)) = pair(row, "experts", "experts_active")? else { return Ok(None) };
    let shared = row.whole_or("experts_shared", 0, Some(0))?;
    let dense_layers = row.whole_or("dense_layers", 0, Some(0))?;
    Ok(Some(Experts { routed, active, shared, ffn: row.whole("expert_ffn")?, dense_layers }))
}

fn recurrent(row: &Reader<'_>) -> Result<Option<Recurrent>, BookError> {
    let Some((layers, state_numbers)) = pair(row, "recurrent_layers", "recurrent_state_numbers")? else {
        return Ok(None);
    };
    Ok(Some(Recurrent { layers, state_numbers, params: row.whole("recurrent_params")? }))
}

fn sparse(row: &Reader<'_>) -> Result<Option<Sparse>, BookError> {
    let Some((top, heads)) = pair(row, "sparse_top", "sparse_heads")? else { return Ok(None) };
    Ok(Some(Sparse { top, heads, head_size: row.whole("sparse_head_size")? }))
}

#[cfg(test)]
mod tests {
    use super::super::Book;
    use super::*;

    fn model(name: &str) -> &'static Model {
        Book::built_in().model(name).unwrap()
    }

    #[test]
    fn kv_per_token_is_as_published() {
        let bytes = |name| model(name).kv_bytes_per_token();
        assert_eq!(bytes("llama-3.1-8b"), 131_072);
        assert_eq!(bytes("llama-3.1-70b"), 327_680);
        assert_eq!(bytes("llama-3.1-405b"), 516_096);
        assert_eq!(bytes("qwen3-32b"), 262_144);
        assert_eq!(bytes("qwen3-8b"), 147_456);
        assert_eq!(bytes("deepseek-v3"), 70_272);
        // Published as about 45 KB: 78 x 576 = 44,928; the indexer's keys (78 x 128) have to be kept too.
        assert_eq!(bytes("glm-5.2") - 78 * 128, 44_928);
        // 12 of 48 layers have KV; 36 states are 36 x 524,288 numbers of 2 bytes.
        assert_eq!((bytes("qwen3-next-80b-a3b"), model("qwen3-next-80b-a3b").kv_bytes_fixed()), (24_576, 37_748_736));
        // 18 of 36 layers keep 128 tokens of 2 x 8 x 64 numbers.
        assert_eq!((bytes("gpt-oss-120b"), model("gpt-oss-120b").kv_bytes_fixed()), (36_864, 18 * 128 * 1024 * 2));
    }

    #[test]
    fn dense_parameters_are_those_of_the_published_weights_to_the_last_one() {
        assert_eq!(model("llama-3.1-8b").params(), 8_030_261_248.0);
        assert_eq!(model("llama-3.1-70b").params(), 70_553_706_496.0);
        assert_eq!(model("llama-3.1-405b").params(), 405_853_388_800.0);
        assert_eq!(model("qwen3-8b").params(), 8_190_735_360.0);
    }

    #[test]
    fn parameters_of_mixtures_are_near_what_is_published() {
        for (name, all_e9, active_e9) in [
            ("qwen3-30b-a3b", 30.5, 3.3),
            ("qwen3-235b-a22b", 235.0, 22.0),
            ("deepseek-v3", 671.0, 37.0),
            ("glm-5.2", 744.0, 40.0),
            ("gpt-oss-120b", 117.0, 5.7),
            ("qwen3-next-80b-a3b", 80.0, 3.9),
        ] {
            let (all, active) = (model(name).params() / 1e9, model(name).active_params() / 1e9);
            assert!((all / all_e9 - 1.0).abs() < 0.02, "{name}: {all}");
            assert!((active / active_e9 - 1.0).abs() < 0.06, "{name}: {active}");
        }
    }

    #[test]
    fn a_step_of_few_tokens_reads_few_experts() {
        let mixture = model("qwen3-235b-a22b");
        let (one, many) = (mixture.weights_read_bytes(1.0), mixture.weights_read_bytes(1000.0));
        assert!(one < 23e9 && many > 230e9, "{one} {many}");
        let dense = model("llama-3.1-8b");
        assert_eq!(dense.weights_read_bytes(1.0), dense.weights_read_bytes(64.0));
        assert_eq!(dense.weights_bytes() - dense.weights_read_bytes(1.0), 128_256.0 * 4096.0 * 2.0);
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let refused = |text: &str| Book::with(&[("my.toml", text)]).unwrap_err().to_string();
        assert!(
            refused("[models.gpt-oss-120b]\nwindow_layers = 37")
                .contains("line 1: layers of [models.gpt-oss-120b] is 36, fewer")
        );
        assert!(refused("[models.deepseek-v3]\nexperts_active = 300").contains("line 2: experts_active of"));
        assert!(refused("[models.\"llama-3.1-8b\"]\nkv_dtype = \"fp4\"").contains("write one of bf16"));
        assert!(refused("[models.\"llama-3.1-8b\"]\nwindow_layers = 2").contains("lacks the key window_tokens"));
    }
}
