//! SentencePiece's merging, on a vocabulary small enough to follow by hand; ids of a real one are compared with
//! llama.cpp's by `.ci/oracle/tokenizer.py`.

use super::tests::decoded;
use super::*;
use crate::gguf::Gguf;
use crate::gguf::write::{Meta, Writer};

/// GGUF's type ids.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Ids 0 to 2 are unknown, beginning and end; from 3 on stand the bytes, from 259 on `pieces`.
fn file(pieces: &[(&str, f32, i32)]) -> Writer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let (mut types, mut scores) = (vec![2, CONTROL, CONTROL], vec![0.0; tokens.len()]);
    types.resize(tokens.len(), BYTE);
    for (text, score, kind) in pieces {
        tokens.push((*text).to_owned());
        scores.push(*score);
        types.push(*kind);
    }
    let mut file = Writer::default();
    file.pair("tokenizer.ggml.model", Meta::Str("llama".to_owned()));
    file.pair("tokenizer.ggml.tokens", Meta::Strs(tokens));
    file.pair("tokenizer.ggml.scores", Meta::F32s(scores));
    file.pair("tokenizer.ggml.token_type", Meta::I32s(types));
    file
}

fn built(file: &Writer) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_gguf(&Gguf::parse(file.finish()).unwrap())
}

fn plain(pieces: &[(&'static str, f32)]) -> Tokenizer {
    let pieces: Vec<_> = pieces.iter().map(|(text, score)| (*text, *score, NORMAL)).collect();
    built(&file(&pieces)).unwrap()
}

fn spelled(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, true);
    ids.iter().map(|id| String::from_utf8_lossy(tokenizer.token_bytes(*id)).into_owned()).collect()
}

#[test]
fn the_highest_score_joins_first_then_the_leftmost() {
    let letters = [("a", -9.0), ("b", -9.0), ("c", -9.0), ("\u{2581}", -9.0)];
    let with = |more: &[(&'static str, f32)]| plain(&[&letters[..], more].concat());
    assert_eq!(spelled(&with(&[("ab", -2.0), ("bc", -1.0)]), "abc"), [" ", "a", "bc"]);
    assert_eq!(spelled(&with(&[("ab", -1.0), ("bc", -2.0)]), "abc"), [" ", "ab", "c"]);
    assert_eq!(spelled(&with(&[("ab", -1.0), ("bc", -1.0)]), "abc"), [" ", "ab", "c"]);
    assert_eq!(spelled(&with(&[("ab", -0.0), ("bc", 0.0)]), "abc"), [" ", "ab", "c"], "both zeros are one");
    // Merging, not the best segmentation: `abc` cannot be reached once `bc` is gone.
    assert_eq!(spelled(&with(&[("ab", -1.0), ("aba", -2.0), ("babc", -0.5)]), "babc"), [" ", "b", "ab", "c"]);
    assert_eq!(spelled(&with(&[("aa", -1.0), ("aaa", -3.0)]), "aaaaa"), [" ", "aa", "aaa"]);
    assert_eq!(spelled(&with(&[("\u{2581}a", -1.0), ("\u{2581}ab", -2.0)]), "ab a"), [" ab", " a"]);
    assert_eq!(spelled(&with(&[("a\u{2581}", -1.0), ("a\u{2581}b", -2.0)]), "a b b"), [" ", "a b", " ", "b"]);
}

#[test]
fn what_is_no_token_is_spelled_in_bytes() {
    let tokenizer = plain(&[("\u{2581}", -1.0), ("x", -1.0)]);
    let byte = |byte: u8| 3 + u32::from(byte);
    assert_eq!(tokenizer.encode("é\n", false), [259, byte(0xc3), byte(0xa9), byte(b'\n')]);
    let text = " x 字\u{0}🦀  x\t";
    assert_eq!(decoded(&tokenizer, &tokenizer.encode(text, false)), text);
    let mut without = Writer::default();
    without.pair("tokenizer.ggml.model", Meta::Str("llama".to_owned()));
    without.pair("tokenizer.ggml.tokens", Meta::Strs(["<unk>", "\u{2581}"].map(str::to_owned).to_vec()));
    without.pair("tokenizer.ggml.scores", Meta::F32s(vec![0.0; 2]));
    without.pair("tokenizer.ggml.token_type", Meta::I32s(vec![2, NORMAL]));
    let without = built(&without).unwrap();
    assert_eq!(without.encode("é\u{301}", false), [1, 0, 0], "one unknown token for each character");
}

#[test]
fn a_space_stands_before_a_text_and_behind_special_tokens() {
    let pieces =
        [("\u{2581}", -1.0, NORMAL), ("\u{2581}x", -1.0, NORMAL), ("x", -1.0, NORMAL), ("<b>", 0.0, USER_DEFINED)];
    let tokenizer = built(&file(&pieces)).unwrap();
    assert_eq!(tokenizer.encode("", true), [0u32; 0]);
    assert_eq!(tokenizer.encode("x</s>x<b>x", true), [260, 2, 260, 262, 260]);
    assert_eq!(tokenizer.encode(" x<b> x", true), [259, 260, 262, 259, 260]);
    for text in ["x", " x", "  x ", "x<b>x", "<b> x"] {
        assert_eq!(decoded(&tokenizer, &tokenizer.encode(text, true)), text);
    }
    let mut answer = Detokenizer::after(Some(261));
    let mut out = String::new();
    answer.push(&tokenizer, 260, &mut out);
    assert_eq!(out, " x", "an answer that goes on with a text keeps its space");
    let mut bare = file(&pieces);
    bare.pair("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    let bare = built(&bare).unwrap();
    assert_eq!(bare.encode("x</s>x", true), [261, 2, 261]);
    assert_eq!(decoded(&bare, &[260, 2, 260]), " x x");
}

#[test]
fn no_spelling_becomes_a_control_or_byte_token() {
    let letters = ["\u{2581}", "<", "/", "s", ">", "</", "</s", "s>", "0", "x", "A", "<0", "<0x", "<0x0", "<0x0A"];
    let pieces: Vec<(&str, f32)> = letters.iter().map(|text| (*text, text.len() as f32)).collect();
    let tokenizer = plain(&pieces);
    let controls = |ids: &[u32]| ids.iter().filter(|id| tokenizer.is_control(**id)).count();
    assert_eq!(controls(&tokenizer.encode("</s>", true)), 1);
    assert_eq!(controls(&tokenizer.encode("</s><s>", false)), 0);
    assert_eq!(decoded(&tokenizer, &tokenizer.encode("</s><0x0A>", false)), "</s><0x0A>");
    let words = "hi</s><s>\u{fdd0}x<</s>/s>";
    let ids = tokenizer.encode_chat(&format!("<s>{}</s>", tokenizer.defuse(words)));
    assert_eq!(controls(&ids), 2, "the template's own, first and last");
    assert_eq!((ids.first(), ids.last()), (Some(&1), Some(&2)));
    assert_eq!(decoded(&tokenizer, &ids), words.replace('\u{fdd0}', ""), "and no space is lost or made");
}

#[test]
fn a_control_token_of_one_character_cannot_be_spelled_either() {
    let pieces = [("\u{2581}", -1.0, NORMAL), ("\u{1}", 0.0, CONTROL), ("\u{1}x", 0.0, CONTROL)];
    let tokenizer = built(&file(&pieces)).unwrap();
    let words = "\u{1}\u{1}x\u{1}";
    let ids = tokenizer.encode_chat(&format!("\u{1}{}\u{1}", tokenizer.defuse(words)));
    let controls: Vec<u32> = ids.iter().copied().filter(|id| tokenizer.is_control(*id)).collect();
    assert_eq!(controls, [260, 260], "the template's own");
    assert_eq!(decoded(&tokenizer, &ids), words);
}

#[test]
fn ids_with_a_meaning_have_defaults() {
    let tokenizer = plain(&[("x", -1.0), ("<end_of_turn>", 0.0)]);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.eot()), (Some(1), Some(2), Some(260)));
    assert!(tokenizer.is_end(2) && tokenizer.is_end(260) && !tokenizer.is_end(1) && tokenizer.is_control(260));
    assert!(tokenizer.add_bos() && !tokenizer.add_eos());
    assert_eq!(tokenizer.token_bytes(3 + 0xff), [0xff]);
    let mut says = file(&[]);
    says.pair("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    says.pair("tokenizer.ggml.add_eos_token", Meta::Bool(true));
    says.pair("tokenizer.ggml.eos_token_id", Meta::U32(1));
    let says = built(&says).unwrap();
    assert_eq!((says.add_bos(), says.add_eos(), says.eos()), (false, true, Some(1)));
}

#[test]
fn bad_scores_and_pieces_are_refused() {
    let refused = |pieces: &[(&str, f32, i32)]| built(&file(pieces)).unwrap_err();
    assert_eq!(refused(&[("x", f32::NAN, NORMAL)]), TokenizerError::Score { id: 259 });
    assert_eq!(refused(&[("x", f32::NEG_INFINITY, NORMAL)]), TokenizerError::Score { id: 259 });
    let long = "x".repeat(513);
    let range = TokenizerError::Range { field: "bytes of a token", least: 0, most: 512, found: 513 };
    assert_eq!(refused(&[(&long, 0.0, NORMAL)]), range);
    let mut short = Writer::default();
    short.pair("tokenizer.ggml.model", Meta::Str("llama".to_owned()));
    short.pair("tokenizer.ggml.tokens", Meta::Strs(vec!["a".to_owned(), "b".to_owned()]));
    short.pair("tokenizer.ggml.scores", Meta::F32s(vec![0.0]));
    assert_eq!(built(&short).unwrap_err(), TokenizerError::Range { field: "scores", least: 2, most: 2, found: 1 });
}

#[test]
fn a_megabyte_of_one_kind_takes_no_quadratic_time() {
    let runs: Vec<String> = (1..=512).map(|len| "a".repeat(len)).collect();
    let runs = runs.iter().map(|run| (run.as_str(), run.len() as f32, NORMAL));
    let pieces: Vec<_> = runs.chain([("\u{2581}", 0.0, NORMAL)]).collect();
    let tokenizer = built(&file(&pieces)).unwrap();
    for unit in ["a", "aab", " ", "</s", "字"] {
        let text = unit.repeat((1 << 20) / unit.len());
        assert_eq!(decoded(&tokenizer, &tokenizer.encode(&text, true)).len(), text.len());
    }
}
