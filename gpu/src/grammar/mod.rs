//! Answers of a given shape: a grammar says which tokens may come next.
//!
//! [`Grammars`] compiles a request's [`Grammar`] for one vocabulary, within bounds, and keeps the newest few. A task
//! walks through a copy of its own ([`follow`]), on which nothing of its company has been: what may come next, and
//! whether a bound is met on the way, depends on the grammar and the tokens so far alone.
//!
//! The work is llguidance's. Control tokens are in no grammar; those that end an answer are allowed where the
//! grammar may end.

mod follow;
#[cfg(test)]
mod tests;

pub use follow::{Allowed, Follower};

use crate::tokenizer::Tokenizer;
use follow::Job;
use llguidance::api::{GrammarInit, GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokRxInfo, TokTrie, TokenId};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, TokenParser};
use orchestrion_world::payload::Grammar;
use serde_json::Value;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Of a grammar's text.
const MAX_BYTES: usize = 64 << 10;
/// The compiler calls itself once for each rule, terminal or `$ref` on a chain of them, and a link takes six bytes at
/// least: so much for each byte is several times what it needs, and what is not touched is not taken.
const STACK: usize = MAX_BYTES * (1 << 10);
/// Compiled grammars kept; each may take some megabytes.
const KEPT: usize = 16;
/// The trie counts a token's bytes in ten bits; runs of spaces are the only longer ones.
const TOKEN_BYTES: usize = 512;
/// What a hostile grammar may cost: about 20 ms to read, 15 ms and 32 MB for a task. A schema of a hundred properties
/// takes a hundredth.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 16_000,
    max_grammar_size: 100_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};
/// Between the parts of an answer in JSON: nothing, a space, or a line's end with its indent. More would let a
/// model that has lost its way write blanks to the end of its tokens.
const JSON_BLANKS: &str = r" |\n {0,16}";

/// Why an answer cannot follow its grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("the grammar is {found} bytes long, at most {most} are allowed")]
    TooLong { found: usize, most: usize },
    /// In the words of the compiler, which quote the grammar.
    #[error("{0}")]
    Unusable(String),
    /// On the way: a bound is met, or no token of the vocabulary goes on.
    #[error("the grammar asks for more than its bounds allow, or for what no token of the model spells")]
    Stuck,
    /// The thread that follows grammars has ended.
    #[error("grammars are not followed any more")]
    Gone,
}

/// The grammars of one tokenizer; shared by whoever prepares requests and whoever runs them.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Made when the first grammar comes: a trie of the vocabulary takes a tenth of a second.
    open: OnceLock<Result<Open, GrammarError>>,
}

struct Open {
    shop: Arc<Shop>,
    jobs: flume::Sender<Job>,
}

/// What compiles, and what it has compiled, the newest last.
struct Shop {
    factory: ParserFactory,
    compiled: Mutex<VecDeque<(Grammar, Arc<Matcher>)>>,
}

impl Grammars {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Grammars {
        Grammars { tokenizer, open: OnceLock::new() }
    }

    /// Whether answers can follow the grammar; if so, it is compiled from here on.
    pub fn check(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        self.open()?.shop.compile(grammar).map(drop)
    }

    /// A task's way through its grammar, from the beginning.
    pub fn follow(&self, grammar: Arc<Grammar>) -> Result<Follower, GrammarError> {
        Follower::begin(self.open()?.jobs.clone(), grammar)
    }

    fn open(&self) -> Result<&Open, GrammarError> {
        let open = || {
            let shop = Arc::new(Shop::open(&self.tokenizer)?);
            let jobs = follow::spawn(Arc::clone(&shop))?;
            Ok(Open { shop, jobs })
        };
        self.open.get_or_init(open).as_ref().map_err(Clone::clone)
    }
}

impl Shop {
    fn open(tokenizer: &Tokenizer) -> Result<Shop, GrammarError> {
        let tokens = (0..tokenizer.vocab_len() as u32).map(|id| match tokenizer.token_bytes(id) {
            // A leading 0xff marks what is no text; it is in no UTF-8.
            bytes if tokenizer.is_control(id) || bytes.len() > TOKEN_BYTES || bytes.first() == Some(&0xff) => vec![],
            bytes => bytes.to_vec(),
        });
        let tokens: Vec<Vec<u8>> = tokens.collect();
        let ends: Vec<TokenId> = (0..tokens.len() as u32).filter(|id| tokenizer.is_end(*id)).collect();
        let info = TokRxInfo::new(tokens.len() as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &tokens);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let environment = Arc::new(ApproximateTokEnv::new(trie)) as _;
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| unusable(&e))?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Ok(Shop { factory, compiled: Mutex::default() })
    }

    fn compile(&self, grammar: &Grammar) -> Result<Arc<Matcher>, GrammarError> {
        if let Some(found) = self.find(grammar) {
            return Ok(found);
        }
        let matcher = Arc::new(deep(|| begun(Matcher::new(Ok(self.parser(readable(grammar)?)?))))?);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.len() == KEPT {
            compiled.pop_front();
        }
        compiled.push_back((grammar.clone(), Arc::clone(&matcher)));
        Ok(matcher)
    }

    /// The library finds what an answer may begin with whatever it takes, so it is found within a bound before: some
    /// numbers and patterns that have to hold at once take hours and all memory.
    fn parser(&self, grammar: TopLevelGrammar) -> Result<TokenParser, GrammarError> {
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let tokens = Some(self.factory.tok_env().clone());
            let (grammar, lexemes) = GrammarInit::Serialized(grammar).to_internal(tokens, LIMITS)?;
            let mut limits = LIMITS;
            let mut lexer = lexemes.to_regex_vec(&mut limits)?;
            lexer.set_fuel(limits.initial_lexer_fuel);
            let start = lexer.initial_state(&lexemes.all_lexemes());
            for byte in 0..=u8::MAX {
                lexer.transition(start, byte);
            }
            Ok((grammar, lexemes, lexer.get_error()))
        }));
        match begun.map_err(|e| unusable(&e))? {
            (_, _, Some(error)) => Err(beyond(&error)),
            (grammar, lexemes, None) => {
                let init = GrammarInit::Internal(grammar, lexemes);
                self.factory.create_parser_from_init_default(init).map_err(|e| unusable(&e))
            }
        }
    }

    /// Moves what it finds to the end.
    fn find(&self, grammar: &Grammar) -> Option<Arc<Matcher>> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let at = compiled.iter().position(|(known, _)| known == grammar)?;
        let row = compiled.remove(at)?;
        let found = Arc::clone(&row.1);
        compiled.push_back(row);
        Some(found)
    }
}

/// Refused is here, where a client is told which field it is, what would end the answer at its first token.
fn begun(matcher: Matcher) -> Result<Matcher, GrammarError> {
    match matcher.deep_clone().compute_mask() {
        Ok(first) if !first.is_zero() => Ok(matcher),
        Ok(_) | Err(_) => Err(GrammarError::Unusable(
            "no answer can begin by it: it comes back to itself before it says anything, matches nothing, or asks for more \
             than its bounds allow"
                .to_owned(),
        )),
    }
}

/// On a stack on which the longest grammar's deepest chain has room: to overflow one ends the process.
fn deep<T: Send>(work: impl FnOnce() -> Result<T, GrammarError> + Send) -> Result<T, GrammarError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK);
        let done = thread.spawn_scoped(scope, work).map_err(|e| no_thread(&e))?;
        done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn no_thread(error: &std::io::Error) -> GrammarError {
    GrammarError::Unusable(format!("no thread could be started for grammars: {error}"))
}

/// The grammar as llguidance takes it.
fn readable(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    let (Grammar::JsonSchema(text) | Grammar::Regex(text) | Grammar::Lark(text)) = grammar;
    if text.len() > MAX_BYTES {
        return Err(GrammarError::TooLong { found: text.len(), most: MAX_BYTES });
    }
    Ok(TopLevelGrammar::from_grammar(match grammar {
        Grammar::JsonSchema(text) => {
            let mut schema: Value = serde_json::from_str(text).map_err(|e| GrammarError::Unusable(e.to_string()))?;
            if !schema.is_object() {
                return Err(GrammarError::Unusable("a JSON Schema must be an object".to_owned()));
            }
            let options = JsonCompileOptions { whitespace_pattern: Some(JSON_BLANKS.to_owned()), ..Default::default() };
            options.apply_to(&mut schema);
            GrammarWithLexer::from_json_schema(schema)
        }
        Grammar::Regex(text) => GrammarWithLexer::from_regex(text),
        Grammar::Lark(text) => GrammarWithLexer::from_lark(text.to_string()),
    }))
}

fn beyond(bound: &str) -> GrammarError {
    GrammarError::Unusable(format!("it asks for more than its bounds allow: {bound}"))
}

/// The first lines of what the compiler says: behind them stand its own insides.
fn unusable(error: &impl ToString) -> GrammarError {
    let text = error.to_string();
    let text = text.split("\n<").next().unwrap_or_default().trim();
    // Numbers that do not fit end it so. The profiles let its arithmetic say so, where it else would go on with others.
    if let Some(bound) = text.strip_prefix("panic: ") {
        return beyond(bound.lines().next().unwrap_or_default());
    }
    GrammarError::Unusable(text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect())
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("tokenizer", &self.tokenizer).finish_non_exhaustive()
    }
}
