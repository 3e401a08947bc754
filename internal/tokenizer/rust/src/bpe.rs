//! Byte-pair encoding that is read quickly and takes little room. The library's own keeps every token twice as a string of its own, and
//! reads merges as strings before it looks them up: for a vocabulary of 262,144 tokens that is most of the time to a first token, and
//! 140 MB. Here tokens lie one after the other in one buffer, and merges are ids as soon as they are read. The rules are the library's,
//! which is the oracle of the tests; models with a prefix, a suffix or dropout are left to it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use hashbrown::{DefaultHashBuilder, HashTable};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Result, Token};

pub struct Bpe {
    vocab: Vocab,
    merges: Merges,
    unk: Option<u32>,
    fuse_unk: bool,
    /// The tokens of single bytes, if characters without a token are made of them.
    bytes: Option<Box<[Option<u32>; 256]>>,
    ignore_merges: bool,
}

/// Tokens by id and ids by token.
#[derive(Default)]
struct Vocab {
    text: String,                   // of all tokens
    spans: Vec<Option<(u32, u32)>>, // of each id, in text
    ids: HashTable<Entry>,
    hasher: DefaultHashBuilder,
}

/// A token in a vocabulary's text. Its place is here too, so that looking a token up touches no third piece of memory.
#[derive(Clone, Copy)]
struct Entry {
    begin: u32,
    end: u32,
    id: u32,
}

impl Vocab {
    fn text(&self, e: &Entry) -> &str {
        &self.text[e.begin as usize..e.end as usize]
    }

    fn token(&self, id: u32) -> Option<&str> {
        let (begin, end) = (*self.spans.get(id as usize)?)?;
        Some(&self.text[begin as usize..end as usize])
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(token), |e| self.text(e) == token).map(|e| e.id)
    }

    /// Takes tokens that are in text already. An id or a token that is there twice is for the library, as are ids far apart.
    fn index(&mut self, entries: &[Entry]) -> std::result::Result<(), &'static str> {
        let size = entries.iter().map(|e| e.id as usize + 1).max().unwrap_or(0);
        if size > 2 * entries.len() + 4096 {
            return Err("ids far apart");
        }
        self.spans = vec![None; size];
        let mut ids = HashTable::with_capacity(entries.len());
        for &entry in entries {
            if self.spans[entry.id as usize].replace((entry.begin, entry.end)).is_some() {
                return Err("an id twice");
            }
            let token = self.text(&entry);
            match ids.entry(self.hasher.hash_one(token), |e| self.text(e) == token, |e| self.hasher.hash_one(self.text(e))) {
                hashbrown::hash_table::Entry::Vacant(v) => v.insert(entry),
                hashbrown::hash_table::Entry::Occupied(_) => return Err("a token twice"),
            };
        }
        self.ids = ids;
        Ok(())
    }
}

/// Pairs of tokens that become one, by rank.
#[derive(Default)]
struct Merges {
    pairs: Vec<(u32, u32)>,
    made: Vec<u32>,
    ranks: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Merges {
    fn rank(&self, pair: (u32, u32)) -> Option<u32> {
        self.ranks.find(self.hasher.hash_one(pair), |&rank| self.pairs[rank as usize] == pair).copied()
    }

    /// A pair that is there twice has its later rank, as in the library.
    fn add(&mut self, pair: (u32, u32), made: u32) {
        let rank = self.pairs.len() as u32;
        self.pairs.push(pair);
        self.made.push(made);
        let (pairs, hasher) = (&self.pairs, &self.hasher);
        match self.ranks.entry(hasher.hash_one(pair), |&r| pairs[r as usize] == pair, |&r| hasher.hash_one(pairs[r as usize])) {
            hashbrown::hash_table::Entry::Vacant(v) => {
                v.insert(rank);
            }
            hashbrown::hash_table::Entry::Occupied(mut o) => *o.get_mut() = rank,
        }
    }
}

/// A token of a word that is being merged, in a list. Those that were merged into the one before have no length.
struct Symbol {
    id: u32,
    previous: usize,
    next: usize,
    length: usize, // in bytes
}

const NONE: usize = usize::MAX;

impl Bpe {
    fn symbols(&self, word: &str) -> Result<Vec<Symbol>> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        let mut add = |id, length| {
            let at = symbols.len();
            if let Some(last) = symbols.last_mut() {
                last.next = at;
            }
            symbols.push(Symbol { id, previous: at.wrapping_sub(1), next: NONE, length });
        };
        let mut unknown: Option<(u32, usize)> = None;
        let mut buffer = [0; 4];
        for c in word.chars() {
            let letter: &str = c.encode_utf8(&mut buffer);
            if let Some(id) = self.vocab.id(letter) {
                if let Some((id, length)) = unknown.take() {
                    add(id, length);
                }
                add(id, letter.len());
                continue;
            }
            if let Some(bytes) = &self.bytes {
                if letter.bytes().all(|b| bytes[b as usize].is_some()) {
                    letter.bytes().for_each(|b| add(bytes[b as usize].unwrap_or_default(), 1));
                    continue;
                }
            }
            let Some(id) = self.unk else { continue };
            unknown = match unknown {
                Some((id, length)) if self.fuse_unk => Some((id, length + letter.len())),
                other => {
                    if let Some((id, length)) = other {
                        add(id, length);
                    }
                    Some((id, letter.len()))
                }
            };
        }
        if let Some((id, length)) = unknown {
            add(id, length);
        }
        Ok(symbols)
    }

    /// Merges pairs, those of the lowest rank first and of one rank from left to right.
    fn merge(&self, symbols: &mut [Symbol]) {
        let pair_rank = |symbols: &[Symbol], at: usize| self.merges.rank((symbols[at].id, symbols[symbols[at].next].id));
        let mut queue: BinaryHeap<Reverse<(u32, usize)>> =
            (0..symbols.len().saturating_sub(1)).filter_map(|at| Some(Reverse((pair_rank(symbols, at)?, at)))).collect();
        while let Some(Reverse((rank, at))) = queue.pop() {
            let next = symbols[at].next;
            if symbols[at].length == 0 || next == NONE {
                continue;
            }
            // The pair may be another by now. Where it makes the same token, the library merges it too.
            let made = self.merges.made[rank as usize];
            if pair_rank(symbols, at).is_none_or(|now| self.merges.made[now as usize] != made) {
                continue;
            }
            let after = symbols[next].next;
            let length = std::mem::take(&mut symbols[next].length);
            let symbol = &mut symbols[at];
            symbol.id = made;
            symbol.length += length;
            symbol.next = after;
            let before = symbol.previous;
            if after != NONE {
                symbols[after].previous = at;
                queue.extend(pair_rank(symbols, at).map(|rank| Reverse((rank, at))));
            }
            if before != NONE {
                queue.extend(pair_rank(symbols, before).map(|rank| Reverse((rank, before))));
            }
        }
    }
}

impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if self.ignore_merges {
            if let Some(id) = self.vocab.id(word).filter(|_| !word.is_empty()) {
                return Ok(vec![Token::new(id, word.to_owned(), (0, word.len()))]);
            }
        }
        let mut symbols = self.symbols(word)?;
        self.merge(&mut symbols);
        let mut at = 0;
        let token = |s: &Symbol| {
            let begin = at;
            at += s.length;
            Token::new(s.id, self.vocab.token(s.id).unwrap_or_default().to_owned(), (begin, at))
        };
        Ok(symbols.iter().filter(|s| s.length > 0).map(token).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocab.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocab.token(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.vocab.ids.iter().map(|e| (self.vocab.text(e).to_owned(), e.id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocab.ids.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("this model cannot be saved".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

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
        let bytes = byte_fallback.then(|| Box::new(std::array::from_fn(|b| vocab.id(&format!("<0x{b:02X}>")))));
        Ok(Bpe { vocab, merges, unk, fuse_unk, bytes, ignore_merges })
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
        let mut vocab = Vocab::default();
        let mut entries = Vec::new();
        let text = &mut vocab.text;
        while let Some((begin, end)) = map.next_key_seed(WithText(|token: &str| {
            let begin = text.len() as u32;
            text.push_str(token);
            u32::try_from(text.len()).map(|end| (begin, end)).map_err(|_| "more than four gigabytes of tokens")
        }))? {
            entries.push(Entry { begin, end, id: map.next_value()? });
        }
        vocab.text.shrink_to_fit();
        vocab.index(&entries).map_err(V::Error::custom)?;
        Ok(vocab)
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
        let mut merges = Merges::default();
        let mut whole = String::new();
        while let Some((a, b)) = seq.next_element_seed(ReadPair(self.0))? {
            whole.clear();
            whole.push_str(self.0.token(a).unwrap_or_default());
            whole.push_str(self.0.token(b).unwrap_or_default());
            let made = self.0.id(&whole).ok_or_else(|| A::Error::custom("a merge makes no token"))?;
            merges.add((a, b), made);
        }
        merges.pairs.shrink_to_fit();
        merges.made.shrink_to_fit();
        Ok(merges)
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
