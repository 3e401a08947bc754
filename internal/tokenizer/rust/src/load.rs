//! Reading tokenizer.json. Byte-pair encoding, which nearly all models have, is kept as [`Bpe`]; whatever is not, or looks odd, is
//! the library's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;
use tokenizers::models::TrainerWrapper;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result, Token, TokenizerImpl,
};

use crate::bpe::Bpe;

pub type Tokenizer = TokenizerImpl<AnyModel, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

pub fn tokenizer(json: &[u8]) -> std::result::Result<Tokenizer, String> {
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

pub enum AnyModel {
    Compact(Bpe),
    Library(ModelWrapper),
}

impl<'de> Deserialize<'de> for AnyModel {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(d)?.get();
        match serde_json::from_str(json) {
            Ok(bpe) => Ok(AnyModel::Compact(bpe)),
            Err(_) => serde_json::from_str(json).map(AnyModel::Library).map_err(D::Error::custom),
        }
    }
}

impl Model for AnyModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        match self {
            AnyModel::Compact(m) => m.tokenize(sequence),
            AnyModel::Library(m) => m.tokenize(sequence),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            AnyModel::Compact(m) => m.token_to_id(token),
            AnyModel::Library(m) => m.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            AnyModel::Compact(m) => m.id_to_token(id),
            AnyModel::Library(m) => m.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            AnyModel::Compact(m) => m.get_vocab(),
            AnyModel::Library(m) => m.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            AnyModel::Compact(m) => m.get_vocab_size(),
            AnyModel::Library(m) => m.get_vocab_size(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            AnyModel::Compact(m) => m.save(folder, prefix),
            AnyModel::Library(m) => m.save(folder, prefix),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            AnyModel::Compact(m) => m.get_trainer().into(),
            AnyModel::Library(m) => m.get_trainer(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = r#""version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":7,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null"#;

    fn same(model: &str) {
        let json = format!("{{{REST},\"model\":{model}}}");
        let library = tokenizers::Tokenizer::from_bytes(&json);
        let (ours, library) = match (tokenizer(json.as_bytes()), library) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(_), Err(_)) => return,
            (a, b) => panic!("{model}: {:?}, the library {:?}", a.map(|_| ()), b.map(|_| ())),
        };
        assert_eq!(ours.get_vocab(true), library.get_vocab(true), "{model}");
        for text in ["", "ab", "aabba<x>abab", "z", "azzb", "\u{e9} \u{e9}", "qb<unk>", "ba zé€𓀀ab", "abcdabcd", "cdab"] {
            let ids = |e: tokenizers::Encoding| (e.get_ids().to_vec(), e.get_tokens().to_vec(), e.get_offsets().to_vec());
            let (a, b) = (ours.encode(text, true), library.encode(text, true));
            match (a, b) {
                (Ok(a), Ok(b)) => assert_eq!(ids(a), ids(b), "{model}: {text:?}"),
                (Err(_), Err(_)) => {}
                (a, b) => panic!("{model}: {text:?}: {a:?}, the library {b:?}"),
            }
        }
    }

    #[test]
    fn models_are_read_as_the_library_reads_them() {
        for model in [
            r#"{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"ignore_merges":true,"vocab":{"<unk>":0,"a":1,"b":2,"ab":3},"merges":[["a","b"]]}"#,
            r#"{"type":"BPE","vocab":{"a":1,"b":2,"ab":3,"\u00e9 ":4},"merges":["a b"]}"#,
            r#"{"merges":[["a","b"],["ab","a"]],"type":"BPE","vocab":{"a":1,"b":2,"ab":3,"aba":4}}"#,
            r##"{"type":"BPE","vocab":{"a":1,"b":2,"ab":3},"merges":["#version: 0.2","a b"]}"##,
            r#"{"type":"BPE","continuing_subword_prefix":"q","end_of_word_suffix":"w","dropout":0.0,"vocab":{"a":1,"qb":2,"ab":3},"merges":[["a","qb"]]}"#,
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

    /// Random models of a few letters, which share many pairs and tokens that arise in several ways, on random texts.
    #[test]
    fn random_models_merge_as_the_library_does() {
        let mut state = 1u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for round in 0..300 {
            let mut tokens: Vec<String> = ["a", "b", "é", "▁", "<unk>"].iter().map(|s| s.to_string()).collect();
            if below(2) == 0 {
                tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
            }
            let first = tokens.len();
            let mut merges: Vec<[String; 2]> = Vec::new();
            for _ in 0..below(30) {
                let pick = |n: usize| if n < 4 { tokens[n].clone() } else { tokens[first + (n - 4) % (tokens.len() - first).max(1)].clone() };
                let choices = 4 + tokens.len() - first;
                let pair = [pick(below(choices)), pick(below(choices))];
                let whole = pair.concat();
                if !tokens.contains(&whole) {
                    tokens.push(whole);
                }
                merges.push(pair);
            }
            let vocab: serde_json::Map<String, serde_json::Value> = tokens.iter().enumerate().map(|(id, t)| (t.clone(), id.into())).collect();
            let unk = if below(3) == 0 { serde_json::Value::Null } else { "<unk>".into() };
            let (fuse, ignore) = (below(2) == 0, below(2) == 0);
            let model = serde_json::json!({"type": "BPE", "unk_token": unk, "fuse_unk": fuse, "byte_fallback": below(2) == 0,
                "ignore_merges": ignore, "vocab": vocab, "merges": merges});
            let json = format!("{{{REST},\"model\":{model}}}");
            let ours = tokenizer(json.as_bytes()).unwrap();
            assert!(matches!(ours.get_model(), AnyModel::Compact(_)), "{model}");
            let library = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            for _ in 0..40 {
                let text: String = (0..below(24)).map(|_| ["a", "b", "a", "b", "é", "▁", "z", "€"][below(8)]).collect();
                let (a, b) = (ours.encode(text.as_str(), true).unwrap(), library.encode(text.as_str(), true).unwrap());
                assert_eq!((a.get_ids(), a.get_tokens(), a.get_offsets()), (b.get_ids(), b.get_tokens(), b.get_offsets()), "round {round}: {model}: {text:?}");
            }
        }
    }
}
