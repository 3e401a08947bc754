//! Reading byte-pair encoding from tokenizer.json: tokens go into one buffer as they are read, and merges become ids at once.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::bpe::{Bpe, Merges, Rules};
use crate::vocab::{Entry, Vocab};

impl<'de> serde::Deserialize<'de> for Bpe {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_map(BpeVisitor)
    }
}

struct BpeVisitor;

impl<'de> Visitor<'de> for BpeVisitor {
    type Value = Bpe;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("byte-pair encoding without prefix, suffix and dropout")
    }

    fn visit_map<V: MapAccess<'de>>(self, mut map: V) -> std::result::Result<Bpe, V::Error> {
        let (mut vocab, mut merges): (Option<Vocab>, Option<Merges>) = (None, None);
        let (mut unk, mut fuse_unk, mut byte_fallback, mut ignore_merges) = (None, false, false, false);
        let (mut named, mut early) = (false, None);
        while let Some(key) = map.next_key::<Cow<str>>()? {
            match key.as_ref() {
                "type" => named = map.next_value::<Cow<str>>()? == "BPE",
                "unk_token" => unk = map.next_value::<Option<String>>()?,
                "fuse_unk" => fuse_unk = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "byte_fallback" => byte_fallback = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "ignore_merges" => ignore_merges = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "vocab" => vocab = Some(map.next_value_seed(ReadVocab)?),
                "merges" => match &vocab {
                    Some(vocab) => merges = Some(map.next_value_seed(ReadMerges(vocab))?),
                    None => early = Some(map.next_value::<&RawValue>()?), // they wait for the vocabulary
                },
                "dropout" | "continuing_subword_prefix" | "end_of_word_suffix" => {
                    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        return Err(V::Error::custom("a prefix, a suffix or dropout"));
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if let (Some(vocab), Some(json)) = (&vocab, early) {
            let mut json = serde_json::Deserializer::from_str(json.get());
            merges = Some(ReadMerges(vocab).deserialize(&mut json).map_err(V::Error::custom)?);
        }
        let (true, Some(vocab), Some(merges)) = (named, vocab, merges) else {
            return Err(V::Error::custom("not all of byte-pair encoding"));
        };
        let unk = match unk {
            Some(token) => Some(vocab.id(&token).ok_or_else(|| V::Error::custom("the unknown token is unknown"))?),
            None => None,
        };
        Ok(Bpe::new(vocab, Rules::Pairs(merges), unk, fuse_unk, byte_fallback, ignore_merges))
    }
}

/// Calls a function with a text, which is copied nowhere.
struct WithText<F>(F);

impl<'de, T, F: FnOnce(&str) -> std::result::Result<T, &'static str>> DeserializeSeed<'de> for WithText<F> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<T, D::Error> {
        d.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> std::result::Result<T, &'static str>> Visitor<'_> for WithText<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a token")
    }
    fn visit_str<E: Error>(self, s: &str) -> std::result::Result<T, E> {
        (self.0)(s).map_err(E::custom)
    }
}

struct ReadVocab;

impl<'de> DeserializeSeed<'de> for ReadVocab {
    type Value = Vocab;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vocab, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReadVocab {
    type Value = Vocab;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("tokens with their ids")
    }

    fn visit_map<V: MapAccess<'de>>(self, mut map: V) -> std::result::Result<Vocab, V::Error> {
        let (mut text, mut entries) = (String::new(), Vec::new());
        while let Some((begin, end)) = map.next_key_seed(WithText(|token: &str| {
            let begin = text.len() as u32;
            text.push_str(token);
            u32::try_from(text.len()).map(|end| (begin, end)).map_err(|_| "more than four gigabytes of tokens")
        }))? {
            entries.push(Entry { begin, end, id: map.next_value()? });
        }
        Vocab::of_entries(text, entries).map_err(V::Error::custom)
    }
}

struct ReadMerges<'a>(&'a Vocab);

impl<'de> DeserializeSeed<'de> for ReadMerges<'_> {
    type Value = Merges;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Merges, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ReadMerges<'_> {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("pairs of tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Merges, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = seq.next_element_seed(ReadPair(self.0))? {
            pairs.push(pair);
        }
        Merges::of_pairs(self.0, pairs).map_err(A::Error::custom)
    }
}

/// Two tokens, as a list or, in older files, with a space between them.
struct ReadPair<'a>(&'a Vocab);

impl ReadPair<'_> {
    fn id(&self, token: &str) -> std::result::Result<u32, &'static str> {
        self.0.id(token).ok_or("a merge of unknown tokens")
    }
}

impl<'de> DeserializeSeed<'de> for ReadPair<'_> {
    type Value = (u32, u32);
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(u32, u32), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReadPair<'_> {
    type Value = (u32, u32);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_str<E: Error>(self, s: &str) -> std::result::Result<(u32, u32), E> {
        match s.split_once(' ') {
            Some((a, b)) if !b.contains(' ') && !s.starts_with("#version") => {
                Ok((self.id(a).map_err(E::custom)?, self.id(b).map_err(E::custom)?))
            }
            _ => Err(E::custom("not two tokens")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(u32, u32), A::Error> {
        let mut next = || seq.next_element_seed(WithText(|token: &str| self.id(token)));
        let (Some(a), Some(b)) = (next()?, next()?) else { return Err(A::Error::custom("not two tokens")) };
        match seq.next_element::<IgnoredAny>()? {
            None => Ok((a, b)),
            Some(_) => Err(A::Error::custom("not two tokens")),
        }
    }
}
