//! Grammars that generated text must follow, by way of `llguidance`: which tokens may come next.

use crate::abi::{borrow_str, guard, Bytes};
use crate::bytelevel::byte_letters;
use crate::load::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{json, Value};
use std::sync::Arc;

/// The bytes of every token, in the form in which grammars look at them.
pub struct Vocabulary(ParserFactory);

/// # Safety
/// `t` must be live; `eos` must point to `n` ids, at least one; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_vocabulary_new(
    t: *const Tokenizer,
    size: usize,
    eos: *const u32,
    n: usize,
    out: *mut *mut Vocabulary,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        if n == 0 {
            return Err("the model has no end token".into());
        }
        let words = token_bytes(&*t, size)?;
        let eos = std::slice::from_raw_parts(eos, n);
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, eos[0]), &words).with_eos_tokens(eos);
        let mut factory = ParserFactory::new_simple(&(Arc::new(ApproximateTokEnv::new(trie)) as _)).map_err(|e| e.to_string())?;
        factory.quiet();
        Ok(Box::into_raw(Box::new(Vocabulary(factory))))
    })
}

/// # Safety
/// `v` must come from `gomlx_vocabulary_new` and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn gomlx_vocabulary_free(v: *mut Vocabulary) {
    if !v.is_null() {
        drop(Box::from_raw(v));
    }
}

/// Starts a text that follows a grammar of a kind: "json_schema", "regex", "choices" (a JSON list) or "lark".
///
/// # Safety
/// `v` must be live; the texts must point to as many bytes; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_matcher_new(
    v: *const Vocabulary,
    kind: *const u8,
    kind_len: usize,
    grammar: *const u8,
    grammar_len: usize,
    out: *mut *mut Matcher,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let grammar = top_level(borrow_str(kind, kind_len)?, borrow_str(grammar, grammar_len)?)?;
        let parser = (*v).0.create_parser(grammar).map_err(|e| e.to_string())?;
        Ok(Box::into_raw(Box::new(Matcher::new(Ok(parser)))))
    })
}

/// # Safety
/// `m` must come from `gomlx_matcher_new` and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn gomlx_matcher_free(m: *mut Matcher) {
    if !m.is_null() {
        drop(Box::from_raw(m));
    }
}

/// Takes the next token of the text.
///
/// # Safety
/// `m` must be live and used by one thread at a time; `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_matcher_accept(m: *mut Matcher, token: u32, err: *mut Bytes) -> i32 {
    let mut done = ();
    guard(&mut done, err, || (*m).consume_token(token).map_err(|e| e.to_string()))
}

/// Stores for each of `n` tokens whether it may come next: end tokens, where the text may end.
///
/// # Safety
/// As for `gomlx_matcher_accept`; `allowed` must be valid for `n` writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_matcher_mask(m: *mut Matcher, allowed: *mut bool, n: usize, err: *mut Bytes) -> i32 {
    let mut done = ();
    guard(&mut done, err, || {
        let mask = (*m).compute_mask_or_eos().map_err(|e| e.to_string())?;
        let allowed = std::slice::from_raw_parts_mut(allowed, n);
        allowed.fill(false);
        mask.iter_set_entries(|i| {
            if i < n {
                allowed[i] = true;
            }
        });
        Ok(())
    })
}

fn top_level(kind: &str, text: &str) -> Result<TopLevelGrammar, String> {
    match kind {
        "json_schema" => {
            let mut schema: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
            // Without this a model may put spaces for ever.
            if let Value::Object(fields) = &mut schema {
                fields.entry("x-guidance").or_insert(json!({ "whitespace_flexible": false }));
            }
            Ok(TopLevelGrammar::from_json_schema(schema))
        }
        "regex" => Ok(TopLevelGrammar::from_regex(text)),
        "choices" => {
            let choices: Vec<String> = serde_json::from_str(text).map_err(|e| e.to_string())?;
            let quoted: Vec<String> = choices.iter().map(|c| literal(c)).collect();
            Ok(TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | "))))
        }
        "lark" => Ok(TopLevelGrammar::from_lark(text.into())),
        _ => Err(format!("unknown kind of grammar {kind:?}")),
    }
}

/// A text as a string of a Lark grammar, whose lexer takes no control characters.
fn literal(text: &str) -> String {
    let quoted = json!(text).to_string();
    let escape = |c: char| if c.is_control() { format!("\\u{:04x}", c as u32) } else { c.to_string() };
    quoted.chars().map(escape).collect()
}

/// The bytes that each token stands for; special tokens stand for none, and are marked as such.
fn token_bytes(t: &Tokenizer, size: usize) -> Result<Vec<Vec<u8>>, String> {
    let decoder = serde_json::to_string(&t.get_decoder()).map_err(|e| e.to_string())?;
    let byte_level = decoder.contains("\"ByteLevel\"");
    let space = if decoder.contains('▁') || decoder.contains("Metaspace") { '▁' } else { ' ' };
    let added = t.get_added_tokens_decoder();
    let letters = byte_letters();
    (0..size as u32)
        .map(|id| {
            let Some(text) = t.id_to_token(id) else { return Ok(special("")) };
            if let Some(token) = added.get(&id) {
                return Ok(if token.special { special(&text) } else { text.into_bytes() });
            }
            if byte_level {
                return text
                    .chars()
                    .map(|c| letters.get(&c).copied().ok_or_else(|| format!("token {id} ({text:?}) is not made of bytes")))
                    .collect();
            }
            let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
            if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                return Ok(vec![byte]);
            }
            Ok(text.replace(space, " ").into_bytes())
        })
        .collect()
}

fn special(text: &str) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat()
}
