//! Failures as the page shows them.

use serde::Serialize;
use wasm_bindgen::JsValue;
use wgoal::ErrorKind;

/// Why a call failed. The page gets it as a JSON text.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Which part failed: `data`, `config`, `device`, `checkpoint`, `diverged`, `stopped` or `page`.
    kind: &'static str,
    /// What it is about.
    thing: String,
    /// The whole message.
    message: String,
    /// The line of a weight file that it is about, and a line that marks the place.
    excerpt: Option<String>,
}

impl Failure {
    /// A call that the page makes at the wrong time.
    pub fn early(what: &str, first: &str) -> Self {
        let message = format!("{what}: expected {first} first, found none; {first} and try again");
        Self { kind: "page", thing: what.into(), message, excerpt: None }
    }
}

impl From<wgoal::Error> for Failure {
    fn from(error: wgoal::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Data => "data",
            ErrorKind::Config => "config",
            ErrorKind::Device => "device",
            ErrorKind::Checkpoint => "checkpoint",
            ErrorKind::Diverged => "diverged",
            ErrorKind::Stopped => "stopped",
            _ => "page",
        };
        let excerpt = error.excerpt().map(str::to_string);
        Self { kind, thing: error.thing().into(), message: error.to_string(), excerpt }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        let message = format!("options: expected those of this page, found {error}; reload the page");
        Self { kind: "page", thing: "options".into(), message, excerpt: None }
    }
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        // A structure of texts always has a JSON form.
        Self::from_str(&serde_json::to_string(&failure).unwrap_or_default())
    }
}
