//! The tokens of Jinja's expressions.

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Name(String),
    Text(String),   // decoded
    Whole(String),  // in decimal
    Float(String),
    Mark(&'static str),
}

const MARKS: &[&str] = &[
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",",
];

/// The tokens of a tag; None for what Jinja's lexer would not take.
pub fn tokens(body: &str) -> Option<Vec<Token>> {
    let mut out: Vec<Token> = Vec::new();
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let (token, length) = match c {
            c if c.is_whitespace() => {
                rest = rest.trim_start();
                continue;
            }
            '"' | '\'' => {
                let length = string_length(rest.as_bytes(), c as u8)?;
                (Token::Text(unescape(&rest[1..length - 1])?), length)
            }
            // After a point a number is an index: in a.0.1 there is no 0.1.
            c if c.is_ascii_digit() => number(rest, out.last() != Some(&Token::Mark(".")))?,
            c if c.is_alphabetic() || c == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Token::Name(rest[..length].to_owned()), length)
            }
            _ => {
                let mark = MARKS.iter().find(|mark| rest.starts_with(**mark))?;
                (Token::Mark(mark), mark.len())
            }
        };
        out.push(token);
        rest = &rest[length..];
    }
    Some(out)
}

/// How many bytes a quoted text takes, its quotes among them.
pub fn string_length(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut i = 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 1,
            b if b == quote => return Some(i + 1),
            _ => {}
        }
        i += 1;
    }
    None
}

/// Digits with single underscores between them.
fn digits(s: &str, radix: u32) -> usize {
    let bytes = s.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(|b| (*b as char).is_digit(radix));
    let mut n = 0;
    while digit(n) || n > 0 && bytes.get(n) == Some(&b'_') && digit(n + 1) {
        n += 1;
    }
    n
}

fn number(s: &str, may_be_float: bool) -> Option<(Token, usize)> {
    let plain = |s: &str| s.replace('_', "");
    for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
        if s.get(..2).is_some_and(|p| p.eq_ignore_ascii_case(prefix)) {
            let skip = 2 + usize::from(s[2..].starts_with('_'));
            let n = digits(&s[skip..], radix);
            if n > 0 {
                let value = u128::from_str_radix(&plain(&s[skip..skip + n]), radix).ok()?;
                return Some((Token::Whole(value.to_string()), skip + n));
            }
        }
    }
    let whole = digits(s, 10);
    let mut end = whole;
    if may_be_float {
        if s[end..].starts_with('.') {
            let n = digits(&s[end + 1..], 10);
            end += if n > 0 { n + 1 } else { 0 };
        }
        if s[end..].starts_with(['e', 'E']) {
            let sign = usize::from(s[end + 1..].starts_with(['+', '-']));
            let n = digits(&s[end + 1 + sign..], 10);
            end += if n > 0 { n + 1 + sign } else { 0 };
        }
    }
    if end > whole {
        return Some((Token::Float(plain(&s[..end])), end));
    }
    if s.starts_with('0') && !plain(&s[..whole]).bytes().all(|b| b == b'0') {
        return None; // Python knows no 007
    }
    Some((Token::Whole(plain(&s[..whole])), whole))
}

/// A text with Python's escapes.
fn unescape(s: &str) -> Option<String> {
    let mut out = String::with_capacity(s.len());
    let mut units: Vec<u16> = Vec::new(); // halves of surrogate pairs, written one by one
    let mut rest = s;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let mut surrogate = None;
        let mut put = None;
        if c != '\\' {
            put = Some(c);
        } else {
            let e = rest.chars().next()?;
            rest = &rest[e.len_utf8()..];
            match e {
                '\n' => {}
                '\\' | '\'' | '"' => put = Some(e),
                'a' => put = Some('\u{7}'),
                'b' => put = Some('\u{8}'),
                'f' => put = Some('\u{c}'),
                'n' => put = Some('\n'),
                'r' => put = Some('\r'),
                't' => put = Some('\t'),
                'v' => put = Some('\u{b}'),
                '0'..='7' => {
                    let more = rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                    let text = format!("{e}{}", &rest[..more]);
                    rest = &rest[more..];
                    put = char::from_u32(u32::from_str_radix(&text, 8).ok()?);
                }
                'x' | 'u' | 'U' => {
                    let n = match e {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let hex = rest.get(..n).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))?;
                    rest = &rest[n..];
                    let code = u32::from_str_radix(hex, 16).ok()?;
                    match char::from_u32(code) {
                        None if (0xd800..0xe000).contains(&code) => surrogate = Some(code as u16),
                        None => return None,
                        found => put = found,
                    }
                }
                other => {
                    out.push('\\');
                    put = Some(other);
                }
            }
        }
        match surrogate {
            Some(unit) => units.push(unit),
            None => {
                out.push_str(&String::from_utf16_lossy(&units));
                units.clear();
                out.extend(put);
            }
        }
    }
    out.push_str(&String::from_utf16_lossy(&units));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_jinjas() {
        let name = |s: &str| Token::Name(s.into());
        assert_eq!(
            tokens("a.0.1 ~ 1_0.5e-3 // 0x1F\t'\\x41\\101\\u00e9\\d\\''"),
            Some(vec![
                name("a"), Token::Mark("."), Token::Whole("0".into()), Token::Mark("."), Token::Whole("1".into()), Token::Mark("~"),
                Token::Float("10.5e-3".into()), Token::Mark("//"), Token::Whole("31".into()), Token::Text("AAé\\d'".into()),
            ])
        );
        assert_eq!(tokens("'a\\\nb' \"\\ud83e\\udd8a\""), Some(vec![Token::Text("ab".into()), Token::Text("🦊".into())]));
        for bad in ["'", "'\\x4'", "a ? b", "'\\", "\"\\ud83", "&"] {
            assert_eq!(tokens(bad), None, "{bad}");
        }
    }
}
