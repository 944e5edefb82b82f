//! What language models used, read from their answers.

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod llama_cpp;
mod needles;
mod ollama;
mod openai;
mod reading;
mod tally;

use std::fmt;
use std::sync::{Arc, LazyLock};

use compact_str::CompactString;
use http::response::Parts;

use self::reading::Reading;
use self::tally::{LlmWatch, Tally};
use super::capture::{Found, Wanted};
use super::framing::{self, Declared, Framing};
use super::scan::Scan;
use super::{Measure, Measured, encoding};

/// Usage of language models, by any API that is known here, recognised by the answer's content type
/// and shape.
///
/// The answer may be JSON, server-sent events or JSON lines, of any size; it passes unchanged, and at
/// most 64 KiB of it are kept. One convention holds for all providers:
///
/// | value | meaning |
/// |---|---|
/// | `input_tokens` | with those read from a cache, and those written to it |
/// | `output_tokens` | with those of reasoning |
/// | `total_tokens` | their sum, as the provider bills it |
/// | `cached_input_tokens` | those of the input that were read from a cache |
/// | `cache_write_tokens` | those of the input that were written to one |
/// | `reasoning_tokens` | those of the output that were reasoning |
/// | `cost` | the provider's own price, in its unit (a dollar or credit); see below |
/// | `cost_micros` | the same in millionths of that unit |
///
/// and the dimension `model`, by the name that the answer gives it. That may be more exact than the one
/// asked for (`gpt-4o-2024-08-06` for `gpt-4o`), and limits with a filter count by it.
///
/// What an answer does not tell is absent, and never 0: an answer that tells nothing is missing usage
/// ([`MissingUsage`](crate::MissingUsage)). An event stream of OpenAI's dialect tells its usage only
/// where the request says `"stream_options":{"include_usage":true}`.
///
/// An [`Amount`](crate::Amount) has six decimals, so the price of a small request in dollars is
/// rounded: add up `cost_micros`, which keeps twelve.
///
/// When a client leaves in the middle of a stream that has told no figures yet, the pieces that it was
/// sent count as a token each.
///
/// Answers of other endpoints, such as those that count tokens or report on past use, are not usage.
/// Bedrock's binary event streams are read by [`bedrock`] alone.
///
/// ```
/// use http::Response;
/// use tower_limitry::usage::{self, Measure, Measured};
///
/// let answer = Response::builder().header("content-type", "text/event-stream").body(()).unwrap();
/// let (head, ()) = answer.into_parts();
/// let Measured::Body(mut watch) = usage::llm().measure(&head) else { unreachable!() };
///
/// watch.data(b"data: {\"model\":\"large-2\",\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n");
/// watch.data(b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1,");
/// watch.data(b"\"total_tokens\":10}}\n\ndata: [DONE]\n\n");
///
/// let usage = watch.end().unwrap();
/// assert_eq!(usage.value("input_tokens"), Some(9.into()));
/// assert_eq!(usage.value("total_tokens"), Some(10.into()));
/// assert_eq!(usage.dimensions().get("model"), Some("large-2"));
/// ```
pub fn llm() -> Llm {
    Llm(&Dialect { name: "llm", read: any, may_be_binary: false })
}

/// Usage by OpenAI's API alone (chat completions, completions, responses, embeddings, images, audio),
/// or that of any provider that speaks its dialect: Azure, Mistral, Groq, OpenRouter, DeepSeek, xAI,
/// Perplexity, vLLM, Together, llama.cpp and others. Values as in [`llm`].
pub fn openai() -> Llm {
    Llm(&Dialect { name: "openai", read: openai::read, may_be_binary: false })
}

/// Usage by Anthropic's API of messages alone. Values as in [`llm`].
pub fn anthropic() -> Llm {
    Llm(&Dialect { name: "anthropic", read: anthropic::read, may_be_binary: false })
}

/// Usage by the API of Gemini alone, also on Vertex: content, its stream as events or as one array,
/// interactions. Values as in [`llm`].
pub fn gemini() -> Llm {
    Llm(&Dialect { name: "gemini", read: gemini::read, may_be_binary: false })
}

/// Usage by Ollama's own API alone. Values as in [`llm`].
pub fn ollama() -> Llm {
    Llm(&Dialect { name: "ollama", read: ollama::read, may_be_binary: false })
}

/// Usage by Cohere's API alone, versions 1 and 2. Values as in [`llm`].
pub fn cohere() -> Llm {
    Llm(&Dialect { name: "cohere", read: cohere::read, may_be_binary: false })
}

/// Usage by Bedrock's API: Converse, and what the models behind it say of themselves. It reads binary
/// event streams (`application/vnd.amazon.eventstream`) too, except for messages of more than 256 KiB.
/// Values as in [`llm`].
pub fn bedrock() -> Llm {
    Llm(&Dialect { name: "bedrock", read: any, may_be_binary: true })
}

/// Usage by the native completions of llama.cpp's server alone. Values as in [`llm`].
pub fn llama_cpp() -> Llm {
    Llm(&Dialect { name: "llama_cpp", read: llama_cpp::read, may_be_binary: false })
}

/// Measures what a language model used; made by [`llm`] and its neighbours.
#[derive(Clone, Copy)]
pub struct Llm(&'static Dialect);

/// How a family of APIs tells its usage.
#[derive(Debug)]
struct Dialect {
    name: &'static str,
    /// The figures of a document. None, or none of tokens: it carries no usage.
    read: fn(&Found) -> Option<Reading>,
    /// Whether its streams may be binary.
    may_be_binary: bool,
}

impl fmt::Debug for Llm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Llm").field(&self.0.name).finish()
    }
}

impl Measure for Llm {
    fn measure(&self, response: &Parts) -> Measured {
        let is_binary = framing::declared(&response.headers) == Declared::As(Framing::Messages);
        if is_binary && !self.0.may_be_binary {
            return Measured::Missing;
        }
        match Scan::new(&response.headers, &WANTED, Tally::new(self.0)) {
            Some(scan) => encoding::decoded(&response.headers, LlmWatch(scan)),
            None => Measured::Missing,
        }
    }
}

/// Tells the dialects apart.
fn any(found: &Found) -> Option<Reading> {
    let of_usage = if gemini::is_it(found) {
        gemini::read(found)
    } else if anthropic::is_it(found) {
        anthropic::read(found)
    } else {
        openai::read(found)
    };
    let has_tokens = |reading: &Reading| reading.has_tokens();
    of_usage
        .filter(has_tokens)
        .or_else(|| cohere::read(found))
        .or_else(|| ollama::read(found).filter(has_tokens))
        .or_else(|| llama_cpp::read(found).filter(has_tokens))
        .or_else(|| bedrock::read(found))
}

fn model(found: &Found) -> Option<CompactString> {
    found.text("model")
}

static WANTED: LazyLock<Arc<Wanted>> = LazyLock::new(|| {
    let mut wanted = Wanted::new(true);
    // The object that holds the figures lies at the top, or in the object that an event carries.
    for holder in ["", "/message", "/response", "/delta", "/x_groq", "/interaction"] {
        let members =
            [openai::USAGE, anthropic::USAGE, gemini::USAGE, cohere::USAGE, bedrock::USAGE];
        for member in members.into_iter().flatten() {
            wanted.add(&format!("{holder}/usage/{member}"), &format!("usage/{member}"));
        }
        let iterations = anthropic::ITERATIONS;
        wanted.add_whole(&format!("{holder}/usage/{iterations}"), "usage/iterations");
    }
    for holder in ["", "/response"] {
        wanted.add(&format!("{holder}/usageMetadata"), "usageMetadata");
        for member in gemini::USAGE_METADATA {
            let name = format!("usageMetadata/{member}");
            wanted.add(&format!("{holder}/{name}"), &name);
        }
        for member in cohere::USAGE {
            wanted.add(&format!("{holder}/meta/{member}"), &format!("meta/{member}"));
        }
    }
    for holder in ["", "/message", "/response", "/interaction"] {
        wanted.add(&format!("{holder}/model"), "model");
        wanted.add(&format!("{holder}/modelVersion"), "model");
    }
    // Groq and Cohere tell of errors within objects of their own.
    for holder in ["", "/x_groq", "/delta"] {
        wanted.add(&format!("{holder}/error"), "error");
    }
    let top = [
        "type",
        "object",
        "choices",
        "choices/0",
        "choices/0/finish_reason",
        "choices/0/delta/role",
        "choices/0/delta/content",
        "candidates",
        "candidates/0/finishReason",
        "cost/usd",
        "prompt_eval_count",
        "eval_count",
        "done",
        "tokens_evaluated",
        "tokens_predicted",
        "timings/cache_n",
        "stop",
    ];
    for member in top.iter().chain(bedrock::TOP) {
        wanted.add(&format!("/{member}"), member);
    }
    Arc::new(wanted)
});
