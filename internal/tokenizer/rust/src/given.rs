//! Tokenizers whose vocabulary is given as it lies in a GGUF file, without a tokenizer.json.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use crate::abi::{borrow, borrow_str, guard, Bytes};
use crate::bpe::{Bpe, Merges, Rules, Scores};
use crate::load::{AnyModel, Tokenizer};
use crate::vocab::Vocab;

/// The model of byte-pair encoding in parts; every pointer is the caller's and read during the call only.
#[repr(C)]
pub struct Given {
    text: *const u8, // of all tokens, one behind the other
    text_len: usize,
    ends: *const u32, // of each token in text; a token without text is none
    tokens: usize,
    places: *const u32, // of each token by its score, or null: then there are merges
    merges: *const u8,  // lines, one behind the other: two tokens with a space between them
    merges_len: usize,
    merge_ends: *const u32,   // of each line
    merge_spaces: *const u32, // where the space of each line is
    merge_count: usize,
    unk: i64, // the unknown token, or -1
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
}

unsafe fn numbers<'a>(data: *const u32, n: usize) -> &'a [u32] {
    if n == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, n)
    }
}

/// The parts of a text that end at these places.
fn piece<'a>(text: &'a str, begin: u32, end: u32) -> Result<&'a str, String> {
    text.get(begin as usize..end as usize).ok_or_else(|| format!("no text from byte {begin} to {end}"))
}

unsafe fn model(g: &Given) -> Result<Bpe, String> {
    let text = borrow_str(g.text, g.text_len)?.to_owned();
    let ends = numbers(g.ends, g.tokens).to_vec();
    let mut begin = 0;
    for &end in &ends {
        piece(&text, begin, end)?;
        begin = end;
    }
    let vocab = Vocab::of_texts(text, ends);
    let rules = if g.places.is_null() {
        let lines = borrow_str(g.merges, g.merges_len)?;
        let (ends, spaces) = (numbers(g.merge_ends, g.merge_count), numbers(g.merge_spaces, g.merge_count));
        let (mut pairs, mut begin) = (Vec::with_capacity(ends.len()), 0);
        for (&end, &space) in ends.iter().zip(spaces) {
            let (left, right) = (piece(lines, begin, space)?, piece(lines, space.saturating_add(1), end)?);
            let id = |token: &str| vocab.id(token).ok_or_else(|| format!("the merge {left:?} {right:?} is of a token that the vocabulary does not have: {token:?}"));
            pairs.push((id(left)?, id(right)?));
            begin = end;
        }
        Rules::Pairs(Merges::of_pairs(&vocab, pairs)?)
    } else {
        Rules::Scores(Scores::of_places(numbers(g.places, g.tokens).to_vec()))
    };
    let unk = match u32::try_from(g.unk) {
        Ok(id) => Some(vocab.token(id).map(|_| id).ok_or_else(|| format!("the unknown token {id} is none"))?),
        Err(_) => None,
    };
    Ok(Bpe::new(vocab, rules, unk, g.fuse_unk, g.byte_fallback, g.ignore_merges))
}

fn part<T: DeserializeOwned>(rest: &mut Value, name: &str) -> Result<T, String> {
    serde_json::from_value(rest[name].take()).map_err(|e| format!("{name}: {e}"))
}

/// Makes a tokenizer of a model in parts, and of the rest as tokenizer.json has it.
///
/// # Safety
/// `rest` must point to `len` bytes and `given` to what its fields say; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_tokenizer_of_parts(given: *const Given, rest: *const u8, len: usize, out: *mut *mut Tokenizer, err: *mut Bytes) -> i32 {
    guard(out, err, || {
        let mut rest: Value = serde_json::from_slice(borrow(rest, len)).map_err(|e| e.to_string())?;
        let mut t = Tokenizer::new(AnyModel::Compact(model(&*given)?));
        t.with_normalizer(part::<Option<NormalizerWrapper>>(&mut rest, "normalizer")?)
            .map_err(|e| e.to_string())?
            .with_pre_tokenizer(part::<Option<PreTokenizerWrapper>>(&mut rest, "pre_tokenizer")?)
            .with_post_processor(part::<Option<PostProcessorWrapper>>(&mut rest, "post_processor")?)
            .with_decoder(part::<Option<DecoderWrapper>>(&mut rest, "decoder")?);
        t.add_tokens(part::<Vec<AddedToken>>(&mut rest, "added_tokens")?).map_err(|e| e.to_string())?;
        Ok(Box::into_raw(Box::new(t)))
    })
}
