//! Reading tokenizer.json. The library reads a model into a tree before it knows which kind it is, and merges once more: for a vocabulary
//! of 262,144 tokens most of the time to a first token and 300 MB. Byte-pair encoding, which nearly all models have, is read
//! straight here; whatever is not, or looks odd, the library reads.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokenizers::models::bpe::{BpeBuilder, Vocab, BPE};
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result, Token, Tokenizer,
    TokenizerImpl,
};

pub fn tokenizer(json: &[u8]) -> std::result::Result<Tokenizer, String> {
    type Direct = TokenizerImpl<Pairs, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    if let Ok(t) = serde_json::from_slice::<Direct>(json) {
        return Ok(t.into());
    }
    Tokenizer::from_bytes(json).map_err(|e| e.to_string())
}

/// The library's byte-pair encoding, read in another way.
struct Pairs(BPE);

impl From<Pairs> for ModelWrapper {
    fn from(p: Pairs) -> Self {
        ModelWrapper::BPE(p.0)
    }
}

// Tokens that are added when a file is read ask the model for their ids.
impl Model for Pairs {
    type Trainer = <BPE as Model>::Trainer;
    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        self.0.tokenize(sequence)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.0.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        self.0.save(folder, prefix)
    }
    fn get_trainer(&self) -> Self::Trainer {
        self.0.get_trainer()
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a BPE model")
    }

    fn visit_map<V: MapAccess<'de>>(self, mut map: V) -> std::result::Result<Pairs, V::Error> {
        let mut b = BpeBuilder::new();
        let (mut vocab, mut merges): (Option<Vocab>, _) = (None, None);
        let mut named = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => {
                    named = map.next_value::<String>()? == "BPE";
                    if !named {
                        return Err(Error::custom("not BPE"));
                    }
                }
                "dropout" => {
                    if let Some(v) = map.next_value()? {
                        b = b.dropout(v);
                    }
                }
                "unk_token" => {
                    if let Some(v) = map.next_value()? {
                        b = b.unk_token(v);
                    }
                }
                "continuing_subword_prefix" => {
                    if let Some(v) = map.next_value()? {
                        b = b.continuing_subword_prefix(v);
                    }
                }
                "end_of_word_suffix" => {
                    if let Some(v) = map.next_value()? {
                        b = b.end_of_word_suffix(v);
                    }
                }
                "fuse_unk" => {
                    if let Some(v) = map.next_value()? {
                        b = b.fuse_unk(v);
                    }
                }
                "byte_fallback" => {
                    if let Some(v) = map.next_value()? {
                        b = b.byte_fallback(v);
                    }
                }
                "ignore_merges" => {
                    if let Some(v) = map.next_value()? {
                        b = b.ignore_merges(v);
                    }
                }
                "vocab" => vocab = Some(map.next_value()?),
                "merges" => merges = Some(map.next_value::<Vec<Merge>>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match (named, vocab, merges) {
            (true, Some(vocab), Some(merges)) => {
                b.vocab_and_merges(vocab, merges.into_iter().map(|m| m.0).collect::<Vec<_>>()).build().map(Pairs).map_err(Error::custom)
            }
            _ => Err(Error::custom("not all of BPE")),
        }
    }
}

/// Two tokens, as a list or, in older files, with a space between them.
struct Merge((String, String));

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_str<E: Error>(self, s: &str) -> std::result::Result<Merge, E> {
        match s.split_once(' ') {
            Some((a, b)) if !b.contains(' ') && !s.starts_with("#version") => Ok(Merge((a.to_owned(), b.to_owned()))),
            _ => Err(E::custom("not two tokens")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Merge, A::Error> {
        let (Some(a), Some(b), None) = (seq.next_element()?, seq.next_element()?, seq.next_element::<IgnoredAny>()?) else {
            return Err(Error::custom("not two tokens"));
        };
        Ok(Merge((a, b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = r#""version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":7,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null"#;

    fn same(model: &str) {
        let json = format!("{{{REST},\"model\":{model}}}");
        let library = Tokenizer::from_bytes(&json);
        match (tokenizer(json.as_bytes()), library) {
            (Ok(a), Ok(b)) => assert_eq!(a.to_string(false).unwrap(), b.to_string(false).unwrap(), "{model}"),
            (Err(a), Err(b)) => assert_eq!(a, b.to_string(), "{model}"),
            (a, b) => panic!("{model}: {:?}, the library {:?}", a.map(|_| ()), b.map(|_| ())),
        }
    }

    #[test]
    fn models_are_read_as_the_library_reads_them() {
        for model in [
            r#"{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"ignore_merges":true,"vocab":{"<unk>":0,"a":1,"b":2,"ab":3},"merges":[["a","b"]]}"#,
            r#"{"type":"BPE","vocab":{"a":1,"b":2,"ab":3,"\u00e9 ":4},"merges":["a b"]}"#,
            r##"{"type":"BPE","vocab":{"a":1,"b":2,"ab":3},"merges":["#version: 0.2","a b"]}"##,
            r#"{"type":"BPE","continuing_subword_prefix":"q","end_of_word_suffix":"w","dropout":0.5,"vocab":{"a":1,"qb":2,"ab":3},"merges":[["a","qb"]]}"#,
            r#"{"type":"BPE","vocab":{"a":1,"b":2,"long":3},"merges":[["a","b"]]}"#,
            r#"{"type":"BPE","vocab":{"a":1,"b":2,"ab":3},"merges":["a b c"]}"#,
            r#"{"type":"BPE","vocab":{"a":1},"merges":[["a"]]}"#,
            r#"{"type":"BPE","vocab":{"a":1},"merges":[],"extra":{"x":[1,2]}}"#,
            r#"{"vocab":{"a":1,"b":2,"ab":3},"merges":["a b"]}"#,
            r#"{"type":"BPE","vocab":{"a":-1},"merges":[]}"#,
            r#"{"type":"BPE","merges":[]}"#,
            r#"{"type":"WordLevel","vocab":{"a":1,"b":2},"unk_token":"a"}"#,
            r#"{"type":"Unigram","unk_id":0,"vocab":[["a",0.5],["b",-1.0]],"byte_fallback":false}"#,
            r#"[]"#,
        ] {
            same(model);
        }
        assert!(tokenizer(b"{").is_err());
    }
}
