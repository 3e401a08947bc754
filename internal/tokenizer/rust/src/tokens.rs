//! tokenizer.json: text to ids and back.

use crate::abi::{borrow, borrow_str, guard, Bytes, Ids};
use crate::load::Tokenizer;
use tokenizers::{DecoderWrapper, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer};

/// What a token is to a decoder that is given one token after the other.
#[repr(i32)]
enum Kind {
    /// It gives text of its own.
    Text = 0,
    /// It gives none: a special token, where these are skipped, or no token at all.
    Nothing = 1,
    /// It is one byte. Bytes in a row are decoded together, and if they are not UTF-8, each of them becomes U+FFFD.
    Byte = 2,
}

fn falls_back_to_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(all) => all.get_decoders().iter().any(falls_back_to_bytes),
        _ => false,
    }
}

/// By the same test as the decoder ByteFallback of the tokenizers crate.
fn is_byte(token: &str) -> bool {
    token.len() == 6
        && token.starts_with("<0x")
        && token.ends_with('>')
        && token.get(3..5).is_some_and(|digits| u8::from_str_radix(digits, 16).is_ok())
}

/// Stores the `Kind` of an id.
///
/// # Safety
/// `t` must be live; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_kind(
    t: *const Tokenizer,
    id: u32,
    skip_special_tokens: bool,
    out: *mut i32,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let t = &*t;
        let kind = match t.id_to_token(id) {
            None => Kind::Nothing,
            Some(token) if skip_special_tokens && t.get_added_vocabulary().is_special_token(&token) => Kind::Nothing,
            Some(token) if is_byte(&token) && t.get_decoder().is_some_and(falls_back_to_bytes) => Kind::Byte,
            Some(_) => Kind::Text,
        };
        Ok(kind as i32)
    })
}

/// # Safety
/// `json` must point to `len` bytes; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_new(
    json: *const u8,
    len: usize,
    out: *mut *mut Tokenizer,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let mut t = crate::load::tokenizer(borrow(json, len))?;
        // A saved tokenizer may carry the padding and truncation of its training run; Python's
        // wrapper switches both off unless a caller asks for them.
        t.with_padding(None);
        t.with_truncation(None).map_err(|e| e.to_string())?;
        Ok(Box::into_raw(Box::new(t)))
    })
}

/// # Safety
/// `t` must come from `gomlx_tokenizer_new` and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_free(t: *mut Tokenizer) {
    if !t.is_null() {
        drop(Box::from_raw(t));
    }
}

/// # Safety
/// `t` must be live; `text` must point to `len` bytes; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_encode(
    t: *const Tokenizer,
    text: *const u8,
    len: usize,
    add_special_tokens: bool,
    out: *mut Ids,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let text = borrow_str(text, len)?;
        let enc = (*t).encode_fast(text, add_special_tokens).map_err(|e| e.to_string())?;
        Ok(Ids::from_vec(enc.get_ids().to_vec()))
    })
}

/// # Safety
/// `t` must be live; `ids` must point to `n` ids; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_decode(
    t: *const Tokenizer,
    ids: *const u32,
    n: usize,
    skip_special_tokens: bool,
    out: *mut Bytes,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let ids: &[u32] = if n == 0 { &[] } else { std::slice::from_raw_parts(ids, n) };
        let text = (*t).decode(ids, skip_special_tokens).map_err(|e| e.to_string())?;
        Ok(Bytes::from_vec(text.into_bytes()))
    })
}

/// Stores the id of a token, or -1 when the vocabulary has no such token.
///
/// # Safety
/// As for `gomlx_tokenizer_encode`.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_token_to_id(
    t: *const Tokenizer,
    token: *const u8,
    len: usize,
    out: *mut i64,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let token = borrow_str(token, len)?;
        Ok((*t).token_to_id(token).map_or(-1, i64::from))
    })
}

/// Stores the number of ids, added tokens included.
///
/// # Safety
/// `t` must be live; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_vocab_size(
    t: *const Tokenizer,
    out: *mut usize,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || Ok((*t).get_vocab_size(true)))
}

/// Encodes a text in which no added token counts, special or not: text that may spell a token without being it.
///
/// # Safety
/// As for `gomlx_tokenizer_encode`.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_encode_plain(
    t: *const Tokenizer,
    text: *const u8,
    len: usize,
    out: *mut Ids,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let mut text = NormalizedString::from(borrow_str(text, len)?);
        if let Some(normalizer) = (*t).get_normalizer() {
            normalizer.normalize(&mut text).map_err(|e| e.to_string())?;
        }
        let mut pieces = PreTokenizedString::from(text);
        if let Some(splitter) = (*t).get_pre_tokenizer() {
            splitter.pre_tokenize(&mut pieces).map_err(|e| e.to_string())?;
        }
        pieces.tokenize(|piece| (*t).get_model().tokenize(piece.get())).map_err(|e| e.to_string())?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte).map_err(|e| e.to_string())?;
        Ok(Ids::from_vec(encoding.get_ids().to_vec()))
    })
}

/// Stores the added tokens as a JSON list of {"id", "content", "special"}, in the order of their ids.
///
/// # Safety
/// `t` must be live; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_added(t: *const Tokenizer, out: *mut Bytes, err: *mut Bytes) -> i32 {
    guard(out, err, || {
        let mut added: Vec<_> = (*t).get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let list: Vec<_> = added
            .into_iter()
            .map(|(id, token)| serde_json::json!({"id": id, "content": token.content, "special": token.special}))
            .collect();
        Ok(Bytes::from_vec(serde_json::Value::from(list).to_string().into_bytes()))
    })
}
