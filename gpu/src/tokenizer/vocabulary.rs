//! Reading a vocabulary out of a file's metadata, with bounds.
//!
//! Builds the [`Tokenizer`] of a GGUF: tokens and their kinds, merges, the few ids with a meaning. Memory is
//! a small multiple of the file's own arrays; counts and lengths are bounded first, and a merge is looked up
//! before the BPE model sees it, since that one trusts its input.

use super::bytes::byte_of;
use super::pre::PreTokenizer;
use super::special::Specials;
use super::{Tokenizer, bytes};
use crate::gguf::{Gguf, GgufError};
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::models::bpe::{BPE, Vocab};

/// Larger than any vocabulary in use (262,144).
const MAX_TOKENS: usize = 1 << 20;
const MAX_MERGES: usize = 1 << 20;
/// Of one token's text; runs of spaces reach a few hundred.
const MAX_TOKEN_BYTES: usize = 4_096;

/// Why a file's tokenizer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Another tokenizer than byte-level BPE.
    #[error("tokenizer.ggml.model: expected `gpt2`, found `{found}`")]
    Model { found: String },
    /// No one knows how this family cuts text into words.
    #[error("tokenizer.ggml.pre: `{found}` is not supported; supported are {expected}")]
    Pre { expected: String, found: String },
    /// A count or a length outside its bounds; both are inclusive.
    #[error("{field}: expected {least} to {most}, found {found}")]
    Range { field: &'static str, least: usize, most: usize, found: usize },
    /// Two tokens of one text.
    #[error("token {id} has the text of token {first}")]
    DuplicateToken { id: u32, first: u32 },
    /// A merge that is no pair, or of or into something that is no token.
    #[error("merge {index} does not join two tokens into a third")]
    Merge { index: usize },
    /// The BPE model refused what passed the checks above.
    #[error("the merges make no byte-pair model")]
    Bpe,
}

/// GGUF's token types, as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
}

/// What the tokenizer needs to know of each token.
pub(crate) struct Vocabulary {
    /// All tokens' bytes, one after another, and where each ends.
    text: Vec<u8>,
    text_ends: Vec<usize>,
    kinds: Vec<Kind>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) eot: Option<u32>,
    pub(crate) add_bos: bool,
    /// Sorted.
    pub(crate) ends: Vec<u32>,
}

/// Tokens that end a turn, known by their text where the file does not say; the first present one is `eot`.
const TURN_ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "<end_of_utterance>",
];
/// Tokens after which nothing meant for a reader follows.
const OTHER_ENDS: [&str; 15] = [
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "<eos>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

impl Vocabulary {
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let at = id as usize;
        let Some(end) = self.text_ends.get(at) else { return &[] };
        let start = at.checked_sub(1).map_or(0, |before| self.text_ends[before]);
        &self.text[start..*end]
    }
}

impl Tokenizer {
    /// The tokenizer that a file describes.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer, TokenizerError> {
        let model = gguf.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TokenizerError::Model { found: shortened(model) });
        }
        let pre = gguf.opt_str("tokenizer.ggml.pre")?.unwrap_or("default");
        let pre = PreTokenizer::of_name(pre)
            .ok_or_else(|| TokenizerError::Pre { expected: PreTokenizer::names(), found: shortened(pre) })?;

        let texts = gguf.strs("tokenizer.ggml.tokens")?;
        bounded("tokens", texts.len(), 1, MAX_TOKENS)?;
        let texts: Vec<&str> = texts.collect();
        let mut ids = BTreeMap::new();
        for (id, text) in (0u32..).zip(&texts) {
            bounded("bytes of a token", text.len(), 0, MAX_TOKEN_BYTES)?;
            if let Some(first) = ids.insert(*text, id)
                && !text.is_empty()
            {
                return Err(TokenizerError::DuplicateToken { id, first });
            }
        }
        let vocabulary = vocabulary(gguf, pre, &texts, &ids)?;
        let special = |kinds: &[Kind]| {
            let chosen =
                (0u32..).zip(&texts).filter(|(id, _)| vocabulary.kind(*id).is_some_and(|kind| kinds.contains(&kind)));
            Specials::new(chosen.map(|(id, text)| (*text, id)))
        };
        let specials = special(&[Kind::Control, Kind::Unknown, Kind::UserDefined])?;
        let user_defined = special(&[Kind::UserDefined])?;
        let mut byte_ids = [None; 256];
        for (byte, id) in (0u8..=255).zip(&mut byte_ids) {
            *id = ids.get(bytes::printable(byte).encode_utf8(&mut [0; 4]) as &str).copied();
        }
        let bpe = bpe(gguf, pre, &ids)?;
        Ok(Tokenizer { vocabulary, pre, bpe, specials, user_defined, byte_ids })
    }
}

pub(super) fn bounded(field: &'static str, found: usize, least: usize, most: usize) -> Result<(), TokenizerError> {
    if (least..=most).contains(&found) { Ok(()) } else { Err(TokenizerError::Range { field, least, most, found }) }
}

/// Names out of a file, fit for an error message.
fn shortened(name: &str) -> String {
    name.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn vocabulary(
    gguf: &Gguf,
    pre: &PreTokenizer,
    texts: &[&str],
    ids: &BTreeMap<&str, u32>,
) -> Result<Vocabulary, TokenizerError> {
    let mut kinds = vec![Kind::Normal; texts.len()];
    if let Some(types) = gguf.opt_ints("tokenizer.ggml.token_type")? {
        bounded("token types", types.len(), texts.len(), MAX_TOKENS)?;
        for (kind, id) in kinds.iter_mut().zip(types) {
            *kind = match id {
                2 => Kind::Unknown,
                3 => Kind::Control,
                4 => Kind::UserDefined,
                _ => Kind::Normal,
            };
        }
    }
    let id_of = |key: &str| -> Result<Option<u32>, GgufError> {
        let id = gguf.opt_u32(&format!("tokenizer.ggml.{key}_token_id"))?;
        Ok(id.filter(|id| (*id as usize) < texts.len()))
    };
    let (bos, eos, eot) = (id_of("bos")?, id_of("eos")?, id_of("eot")?);
    let by_text: Vec<u32> = TURN_ENDS.iter().filter_map(|text| ids.get(text).copied()).collect();
    let eot = eot.or_else(|| by_text.first().copied());
    let named = by_text.iter().copied().chain(OTHER_ENDS.iter().filter_map(|text| ids.get(text).copied()));
    let named: BTreeSet<u32> = named.collect();
    // Some converters forget to mark them; as plain text they could never be told from a user's words.
    named.iter().for_each(|id| kinds[*id as usize] = Kind::Control);
    let ends: BTreeSet<u32> = named.into_iter().chain(eos).chain(eot).chain(id_of("eom")?).collect();

    let mut text = Vec::new();
    let mut text_ends = Vec::with_capacity(texts.len());
    for (token, kind) in texts.iter().zip(&kinds) {
        // Characters outside the alphabet are left as they stand: such a token is not byte-level.
        let spelled = token.chars().map(byte_of).collect::<Option<Vec<u8>>>().filter(|_| *kind == Kind::Normal);
        text.extend(spelled.as_deref().unwrap_or(token.as_bytes()));
        text_ends.push(text.len());
    }
    let add_bos = gguf.opt_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.add_bos) && bos.is_some();
    Ok(Vocabulary { text, text_ends, kinds, bos, eos, eot, add_bos, ends: ends.into_iter().collect() })
}

fn bpe(gguf: &Gguf, pre: &PreTokenizer, ids: &BTreeMap<&str, u32>) -> Result<BPE, TokenizerError> {
    let lines = gguf.strs("tokenizer.ggml.merges")?;
    bounded("merges", lines.len(), 0, MAX_MERGES)?;
    let mut merges = Vec::with_capacity(lines.len());
    let mut seen = BTreeSet::new();
    let mut joined = String::new();
    for (index, line) in lines.enumerate() {
        // A token never holds a space (it is `Ġ`), but may be one byte long: the separator is not the first.
        let mut separators = line.match_indices(' ').filter(|(at, _)| *at > 0);
        let (at, _) = separators.next().ok_or(TokenizerError::Merge { index })?;
        let (left, right) = (&line[..at], &line[at + 1..]);
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if !(ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(joined.as_str())) {
            return Err(TokenizerError::Merge { index });
        }
        // Of equal merges the first counts.
        if seen.insert((left, right)) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    let vocab = ids.iter().map(|(text, id)| ((*text).to_owned(), *id));
    // No cache: it is one per thread, outlives the tokenizer, and would hold words of users' prompts.
    let builder = BPE::builder().vocab_and_merges(vocab.collect::<Vocab>(), merges);
    builder.cache_capacity(0).ignore_merges(pre.whole_words).build().map_err(|_| TokenizerError::Bpe)
}
