//! Chats to prompts, by the template of the model's own file.
//!
//! A template is a program from a stranger: it runs in a minijinja that can load nothing, reach nothing and
//! learn nothing but the messages and the injected time, within a budget of steps and of output. What is
//! usual beside Jinja itself is there: `raise_exception`, `strftime_now`, `tojson` as Python writes it,
//! methods of Python's strings. A file without a template gets a built-in by name (`builtin`), and the log says so.
//!
//! It does not tokenise: [`Tokenizer::encode`](crate::tokenizer::Tokenizer::encode) does, with
//! `parse_special`. Steps are bounded and so is what is printed, into blocks that are kept for later too. Memory is not
//! entirely (a value that doubles itself is cheap in steps), nor is how deep values are nested: a namespace that holds
//! itself ends the process when it is printed. To that extent a model's file is trusted.

mod builtin;
mod calls;
mod json;
mod time;

pub(crate) use builtin::CHATML;

use crate::gguf::{Gguf, GgufError};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, Output, State, context, escape_formatter};
use orchestrion_world::payload::CallForm;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

const MAX_SOURCE: usize = 256 << 10;
/// A message costs a few dozen steps; two million run in well under a second.
const MAX_STEPS: u64 = 2_000_000;
/// Of output, and of values printed at all. Prompts beyond this are of no use to any context window.
const MAX_OUTPUT: usize = 16 << 20;
/// The one template of its environment.
const NAME: &str = "chat";

/// Why a chat made no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file has no template, and none of ours fits its vocabulary.
    #[error(
        "the model's file has no chat template and its vocabulary has the turn tokens of none of {known}; \
         send a prompt to the completions route"
    )]
    Absent { known: String },
    /// The template's source is too long; bytes.
    #[error("the chat template is {found} bytes long, at most {most} are allowed")]
    TooLong { found: usize, most: usize },
    /// The source is no template.
    #[error("the chat template does not parse (line {line}): {kind}")]
    Syntax { line: usize, kind: String },
    /// The template itself refuses these messages (`raise_exception`): a client's error, in its words.
    #[error("the model's chat template refuses these messages: {message}")]
    Refused { message: String },
    /// It ran too long.
    #[error("the chat template took more than {most} steps")]
    OutOfSteps { most: u64 },
    /// It wrote too much; bytes.
    #[error("the chat template wrote more than {most} bytes")]
    TooMuchOutput { most: usize },
    /// The engine that compiles and runs templates met a state that it rules out.
    #[error(
        "the chat template broke the engine that runs it; another model file, or a prompt on the completions route, goes on"
    )]
    Broken,
    /// It failed while running.
    #[error("the chat template failed (line {line}): {kind}")]
    Failed { line: usize, kind: String },
}

/// One message of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub role: &'a str,
    pub content: &'a str,
    /// Other members that templates read: `tool_calls`, `tool_call_id`, `name`.
    pub more: &'a [(&'static str, serde_json::Value)],
}

/// What a template is given.
#[derive(Clone, Copy, Debug)]
pub struct Chat<'a> {
    pub messages: &'a [Message<'a>],
    /// What the model may call, as OpenAI writes it.
    pub tools: &'a [serde_json::Value],
    /// Whether the prompt ends with the opening of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Seconds since 1970, UTC: what `strftime_now` tells.
    pub now_unix_s: u64,
}

/// Where a template came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `tokenizer.chat_template`.
    File,
    /// The built-in of that name.
    BuiltIn(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File => f.write_str("the file's own chat template"),
            Origin::BuiltIn(name) => write!(f, "built-in chat template {name}"),
        }
    }
}

/// A compiled template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    origin: Origin,
    calls: Option<CallForm>,
    bos: String,
    eos: String,
}

/// What `raise_exception` was called with, told apart from our own errors by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl Template {
    /// The file's template, or the built-in that fits its vocabulary; [`TemplateError::Absent`] without either.
    pub fn from_gguf(gguf: &Gguf) -> Result<Template, TemplateError> {
        let text_of = |key: &str| -> Result<String, GgufError> {
            let Some(id) = gguf.opt_u32(key)? else { return Ok(String::new()) };
            let tokens = gguf.opt_strs("tokenizer.ggml.tokens")?;
            Ok(tokens.and_then(|mut texts| texts.nth(id as usize)).unwrap_or_default().to_owned())
        };
        let (bos, eos) = (text_of("tokenizer.ggml.bos_token_id")?, text_of("tokenizer.ggml.eos_token_id")?);
        match gguf.opt_str("tokenizer.chat_template")? {
            Some(source) => Template::compile(source, Origin::File, bos, eos),
            None => {
                let absent = || TemplateError::Absent { known: builtin::names() };
                let row = builtin::of_vocabulary(gguf)?.ok_or_else(absent)?;
                tracing::warn!(template = row.name, "the model's file has no chat template: a built-in one is used");
                Template::compile(row.source, Origin::BuiltIn(row.name), bos, eos)
            }
        }
    }

    /// A template that came with no model file; `bos` and `eos` are what it is told of those tokens.
    pub fn of_source(source: &str, bos: &str, eos: &str) -> Result<Template, TemplateError> {
        Template::compile(source, Origin::File, bos.to_owned(), eos.to_owned())
    }

    fn compile(source: &str, origin: Origin, bos: String, eos: String) -> Result<Template, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError::TooLong { found: source.len(), most: MAX_SOURCE });
        }
        let syntax = |e: Error| TemplateError::Syntax { line: e.line().unwrap_or(0), kind: e.kind().to_string() };
        let mut environment = Environment::new();
        // As `transformers` sets up Jinja, which is what templates are written for.
        let config = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(syntax)?;
        environment.set_syntax(config);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_formatter(print);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
        });
        guarded(|| environment.add_template_owned(NAME, source.to_owned()))?.map_err(syntax)?;
        let calls = calls::of_template(source);
        Ok(Template { environment, origin, calls, bos, eos })
    }

    /// Where the template came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// How the model writes a call; `None` where the template tells it of no tools.
    pub fn calls(&self) -> Option<CallForm> {
        self.calls
    }

    /// The prompt for a chat.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, TemplateError> {
        let messages = chat.messages.iter().map(|m| {
            let more = m.more.iter().map(|(name, value)| (*name, json::value(value)));
            let own = [("role", Value::from(m.role)), ("content", Value::from(m.content))];
            // Only what is there: templates ask whether a message has `tool_calls`.
            Value::from_pairs(own.into_iter().chain(more))
        });
        let tools =
            if chat.tools.is_empty() { Value::from(()) } else { Value::from_iter(chat.tools.iter().map(json::value)) };
        let now = chat.now_unix_s;
        let given = context! {
            messages => messages.collect::<Vec<Value>>(),
            add_generation_prompt => chat.add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => tools,
            documents => Value::from(()),
            strftime_now => Value::from_function(move |format: String| time::strftime(now, &format).unwrap_or_default()),
        };
        let mut output = Bounded::default();
        let template = self.environment.get_template(NAME).map_err(|e| failure(&e))?;
        let rendered = guarded(|| template.render_captured_to(given, &mut output).map(drop))?;
        match rendered {
            _ if output.full => Err(TemplateError::TooMuchOutput { most: MAX_OUTPUT }),
            Err(e) => Err(failure(&e)),
            // Only strings were written, so this cannot lose anything.
            Ok(()) => Ok(String::from_utf8_lossy(&output.bytes).into_owned()),
        }
    }
}

/// Where a template makes the engine panic, that ends here: minijinja 3.0.5 panics where `break` leaves a `with`.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, TemplateError> {
    // What was half done is not looked at again.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| TemplateError::Broken)
}

/// Names the line and the kind of an error: minijinja's own text may quote the template and the messages.
fn failure(e: &Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(found) = cause {
        if let Some(Raised(message)) = found.downcast_ref() {
            return TemplateError::Refused { message: message.chars().take(500).collect() };
        }
        if found.is::<Full>() {
            return TemplateError::TooMuchOutput { most: MAX_OUTPUT };
        }
        if found.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::OutOfSteps { most: MAX_STEPS };
        }
        cause = found.source();
    }
    TemplateError::Failed { line: e.line().unwrap_or(0), kind: e.kind().to_string() }
}

/// Prints a value, as long as all that were printed come to [`MAX_OUTPUT`] at most: what a `set` block, a macro or a
/// filter catches never gets to [`Bounded`].
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let printed = state.get_or_insert_extension(Printed(0));
    // Measured before it is written: a list that holds itself twice, thirty deep, is a gigabyte.
    if write!(printed, "{value}").is_err() {
        return Err(Error::new(ErrorKind::InvalidOperation, "too much is printed").with_source(Full));
    }
    escape_formatter(out, state, value)
}

/// Bytes.
#[derive(Debug)]
struct Printed(usize);

impl fmt::Write for Printed {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0 += piece.len();
        if self.0 > MAX_OUTPUT { Err(fmt::Error) } else { Ok(()) }
    }
}

/// See [`print`].
#[derive(Debug, thiserror::Error)]
#[error("too much is printed")]
struct Full;

/// A writer that stops at [`MAX_OUTPUT`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
