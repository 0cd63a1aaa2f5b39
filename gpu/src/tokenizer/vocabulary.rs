//! Reading a vocabulary out of a file's metadata, with bounds.
//!
//! Builds the [`Tokenizer`] of a GGUF: tokens and their kinds, the few ids with a meaning, and by the family
//! the rest (`byte_level`, `spm`). Memory is a small multiple of the file's own arrays; counts and lengths are
//! bounded first.

use super::byte_level::{ByteLevel, pre_tokenizer};
use super::bytes::byte_of;
use super::pre::PreTokenizer;
use super::special::Specials;
use super::spm::{self, Spm};
use super::wordpiece::WordPiece;
use super::{Scheme, Tokenizer};
use crate::gguf::{Gguf, GgufError};
use std::collections::{BTreeMap, BTreeSet};

/// Larger than any vocabulary in use (262,144).
const MAX_TOKENS: usize = 1 << 20;
/// Of one token's text; runs of spaces reach a few hundred.
const MAX_TOKEN_BYTES: usize = 4_096;

/// Why a file's tokenizer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Neither byte-level BPE nor SentencePiece's merging nor WordPiece.
    #[error("tokenizer.ggml.model: expected `gpt2`, `llama` or `bert`, found `{found}`")]
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
    /// A token's score is a NaN or an infinity.
    #[error("token {id} has a score that is not finite")]
    Score { id: u32 },
    /// The BPE model refused what passed the checks above.
    #[error("the merges make no byte-pair model")]
    Bpe,
    /// A token with a meaning that the family cannot do without.
    #[error("{what}: the vocabulary has no such token")]
    Missing { what: &'static str },
    /// Capitals among the pieces of a model whose file does not say that its texts keep theirs.
    #[error(
        "the vocabulary has words with capitals, and `{key}` does not say whether texts keep theirs; convert the model anew"
    )]
    Cased { key: &'static str },
    /// The WordPiece model refused what passed the checks above.
    #[error("the tokens make no WordPiece model")]
    Pieces,
}

/// GGUF's token types, as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    /// A single byte, for what is no token.
    Byte(u8),
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
    /// Of what has neither a token nor bytes.
    pub(crate) unknown: Option<u32>,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
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
/// Special tokens of phi-3 that leave the white space behind them alone.
const STAND_ALONE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];
/// Tokens that begin a turn, or stand about its role.
const TURN_STARTS: [&str; 4] = ["<|im_start|>", "<start_of_turn>", "<|start_header_id|>", "<|end_header_id|>"];
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
        let family = match gguf.str("tokenizer.ggml.model")? {
            "gpt2" => Family::ByteLevel(pre_tokenizer(gguf)?),
            "llama" => Family::Spm,
            "bert" => Family::WordPiece,
            found => return Err(TokenizerError::Model { found: shortened(found) }),
        };
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
        let vocabulary = vocabulary(gguf, family, &texts, &ids)?;
        let special = |kinds: &[Kind]| {
            let chosen =
                (0u32..).zip(&texts).filter(|(id, _)| vocabulary.kind(*id).is_some_and(|kind| kinds.contains(&kind)));
            Specials::new(chosen.map(|(id, text)| (*text, id)))
        };
        let steers = [Kind::Control, Kind::Unknown, Kind::UserDefined];
        let specials = special(&steers)?;
        // Phi-3's own tokenizer has it so; llama.cpp goes by the model's name for it.
        let is_phi3 = matches!(family, Family::Spm) && gguf.opt_str("general.architecture")? == Some("phi3");
        let is_greedy = |id: &u32, text: &str| {
            vocabulary.kind(*id).is_some_and(|kind| steers.contains(&kind)) && !STAND_ALONE.contains(&text)
        };
        let greedy =
            (0u32..).zip(&texts).filter(|(id, text)| is_phi3 && is_greedy(id, text)).map(|(id, _)| id).collect();
        let user_defined = special(&[Kind::UserDefined])?;
        let scheme = match family {
            Family::ByteLevel(pre) => Scheme::ByteLevel(Box::new(ByteLevel::new(gguf, pre, &ids, &vocabulary)?)),
            Family::Spm => Scheme::Spm(Box::new(Spm::new(gguf, &texts, &vocabulary)?)),
            Family::WordPiece => Scheme::WordPiece(Box::new(WordPiece::new(gguf, &texts, &vocabulary)?)),
        };
        Ok(Tokenizer { vocabulary, scheme, specials, user_defined, greedy })
    }
}

/// How the file's tokens are written, and what holds where it does not say.
#[derive(Clone, Copy)]
enum Family {
    ByteLevel(&'static PreTokenizer),
    Spm,
    WordPiece,
}

impl Family {
    /// Beginning, end, unknown, where the file names none: SentencePiece's first three, BERT's by their names.
    fn ids(self, ids: &BTreeMap<&str, u32>) -> [Option<u32>; 3] {
        match self {
            Family::ByteLevel(_) => [None; 3],
            Family::Spm => [Some(1), Some(2), Some(0)],
            Family::WordPiece => ["[CLS]", "[SEP]", "[UNK]"].map(|name| ids.get(name).copied()),
        }
    }

    /// The keys that name what ends a text, the second whether it is added. The first of WordPiece's is the
    /// format's spelling.
    fn end(self) -> [&'static str; 2] {
        match self {
            Family::ByteLevel(_) | Family::Spm => ["eos", "tokenizer.ggml.add_eos_token"],
            Family::WordPiece => ["seperator", "tokenizer.ggml.add_sep_token"],
        }
    }

    fn add_bos(self) -> bool {
        match self {
            Family::ByteLevel(pre) => pre.add_bos,
            Family::Spm | Family::WordPiece => true,
        }
    }

    fn add_end(self) -> bool {
        matches!(self, Family::WordPiece)
    }

    /// A token's kind by GGUF's type id.
    fn kind(self, id: i128, text: &str) -> Kind {
        match (id, self) {
            (2, _) => Kind::Unknown,
            (3, _) => Kind::Control,
            (4, _) => Kind::UserDefined,
            (6, Family::Spm) => spm::byte_of(text).map_or(Kind::Normal, Kind::Byte),
            _ => Kind::Normal,
        }
    }

    /// The bytes that a normal token's text stands for; `None`: the text as it is.
    fn spelled(self, text: &str) -> Option<Vec<u8>> {
        match self {
            // Characters outside the alphabet are left as they stand: such a token is not byte-level.
            Family::ByteLevel(_) => text.chars().map(byte_of).collect(),
            Family::Spm | Family::WordPiece => Some(text.replace(spm::SPACE, " ").into_bytes()),
        }
    }
}

pub(super) fn bounded(field: &'static str, found: usize, least: usize, most: usize) -> Result<(), TokenizerError> {
    if (least..=most).contains(&found) { Ok(()) } else { Err(TokenizerError::Range { field, least, most, found }) }
}

/// Names out of a file, fit for an error message.
pub(super) fn shortened(name: &str) -> String {
    name.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn vocabulary(
    gguf: &Gguf,
    family: Family,
    texts: &[&str],
    ids: &BTreeMap<&str, u32>,
) -> Result<Vocabulary, TokenizerError> {
    let mut kinds = vec![Kind::Normal; texts.len()];
    if let Some(types) = gguf.opt_ints("tokenizer.ggml.token_type")? {
        bounded("token types", types.len(), texts.len(), MAX_TOKENS)?;
        for ((kind, id), text) in kinds.iter_mut().zip(types).zip(texts) {
            *kind = family.kind(id, text);
        }
    }
    let id_or = |key: &str, custom: Option<u32>| -> Result<Option<u32>, GgufError> {
        let id = gguf.opt_u32(&format!("tokenizer.ggml.{key}_token_id"))?;
        Ok(id.or(custom).filter(|id| (*id as usize) < texts.len()))
    };
    let ([bos, eos, unknown], [end, add_end]) = (family.ids(ids), family.end());
    let (bos, eos, unknown) = (id_or("bos", bos)?, id_or(end, eos)?, id_or("unknown", unknown)?);
    let eot = id_or("eot", None)?;
    let by_text: Vec<u32> = TURN_ENDS.iter().filter_map(|text| ids.get(text).copied()).collect();
    let eot = eot.or_else(|| by_text.first().copied());
    let named = by_text.iter().copied().chain(OTHER_ENDS.iter().filter_map(|text| ids.get(text).copied()));
    let named: BTreeSet<u32> = named.collect();
    // Some converters forget to mark them; as plain text they could never be told from a user's words.
    named.iter().for_each(|id| kinds[*id as usize] = Kind::Control);
    for id in TURN_STARTS.iter().filter_map(|text| ids.get(text)) {
        let kind = &mut kinds[*id as usize];
        // One that stands for text on purpose is left.
        *kind = if *kind == Kind::Normal { Kind::Control } else { *kind };
    }
    // A text without a token must not become one that steers; BERT's unknown token is marked so, and steers nothing.
    let steers = |id: &u32| kinds[*id as usize] == Kind::Control && !matches!(family, Family::WordPiece);
    let unknown = unknown.filter(|id| !steers(id));
    let ends: BTreeSet<u32> = named.into_iter().chain(eos).chain(eot).chain(id_or("eom", None)?).collect();

    let mut text = Vec::new();
    let mut text_ends = Vec::with_capacity(texts.len());
    for (token, kind) in texts.iter().zip(&kinds) {
        let spelled = match kind {
            Kind::Normal => family.spelled(token),
            Kind::Byte(byte) => Some(vec![*byte]),
            Kind::Unknown | Kind::Control | Kind::UserDefined => None,
        };
        text.extend(spelled.as_deref().unwrap_or(token.as_bytes()));
        text_ends.push(text.len());
    }
    let adds = |what: &str, custom| Ok::<_, GgufError>(gguf.opt_bool(what)?.unwrap_or(custom));
    let add_bos = adds("tokenizer.ggml.add_bos_token", family.add_bos())? && bos.is_some();
    let add_eos = adds(add_end, family.add_end())? && eos.is_some();
    let ends = ends.into_iter().collect();
    Ok(Vocabulary { text, text_ends, kinds, bos, eos, eot, unknown, add_bos, add_eos, ends })
}
