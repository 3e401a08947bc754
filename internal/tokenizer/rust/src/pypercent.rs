//! Python's `%`: the remainder of numbers, and texts that are formatted as in C.

use crate::bounds;
use crate::pytext::{repr, str, type_name};
use crate::values::is_tuple;
use minijinja::{value::ValueKind, Error, ErrorKind, Value};
use std::fmt::Write;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `left % right`: formats a text, or is the remainder of numbers.
pub fn modulo(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        if left.is_safe() {
            return Err(bad("formats that are escaped are not known here"));
        }
        return percent(format, right).map(Value::from);
    }
    let (left, right) = (&counted(left), &counted(right));
    if left.is_integer() && right.is_integer() {
        if let (Ok(a), Ok(b)) = (i128::try_from(left.clone()), i128::try_from(right.clone())) {
            if b == 0 {
                return Err(bad("integer modulo by zero"));
            }
            return Ok(Value::from(a.checked_rem(b).map_or(0, |r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r })));
        }
    }
    match (f64::try_from(left.clone()), f64::try_from(right.clone())) {
        (Ok(_), Ok(0.0)) => Err(bad("float modulo by zero")),
        (Ok(a), Ok(b)) => {
            let r = a % b;
            Ok(Value::from(match r {
                0.0 => 0f64.copysign(b),
                r if (r < 0.0) != (b < 0.0) => r + b,
                r => r,
            }))
        }
        _ => Err(bad(format!("unsupported operand types for %: '{}' and '{}'", type_name(left), type_name(right)))),
    }
}

/// A boolean as the number it is.
fn counted(v: &Value) -> Value {
    match v.kind() {
        ValueKind::Bool => Value::from(i32::from(v.is_true())),
        _ => v.clone(),
    }
}

struct Spec {
    name: Option<String>,
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    star: bool, // the width is a value, too
    precision: Option<usize>,
    conversion: char,
}

/// Python's printf-style formatting.
fn percent(format: &str, values: &Value) -> Result<String, Error> {
    enum Part {
        Text(String),
        Spec(Spec),
    }
    let mut parts = Vec::new();
    let mut chars = format.chars().peekable();
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut s =
            Spec { name: None, left: false, zero: false, plus: false, space: false, alternate: false, width: 0, star: false, precision: None, conversion: '%' };
        if chars.peek() == Some(&'(') {
            chars.next();
            s.name = Some(chars.by_ref().take_while(|c| *c != ')').collect());
        }
        while let Some(flag) = chars.next_if(|c| "-0+ #".contains(*c)) {
            match flag {
                '-' => s.left = true,
                '0' => s.zero = true,
                '+' => s.plus = true,
                ' ' => s.space = true,
                _ => s.alternate = true,
            }
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars>| -> Result<usize, Error> {
            let mut n = 0usize;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                n = n * 10 + digit as usize - '0' as usize;
                if n > 1 << 20 {
                    return Err(bad("a width of more than a million"));
                }
            }
            Ok(n)
        };
        s.star = chars.next_if_eq(&'*').is_some();
        s.width = number(&mut chars)?;
        if chars.next_if_eq(&'.').is_some() {
            s.precision = Some(number(&mut chars)?);
        }
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        s.conversion = chars.next().ok_or_else(|| bad("incomplete format"))?;
        if s.conversion == '%' {
            text.push('%');
            continue;
        }
        parts.push(Part::Text(std::mem::take(&mut text)));
        parts.push(Part::Spec(s));
    }
    parts.push(Part::Text(text));

    let wanted: usize = parts.iter().map(|p| if let Part::Spec(s @ Spec { name: None, .. }) = p { 1 + usize::from(s.star) } else { 0 }).sum();
    let named = parts.iter().any(|p| matches!(p, Part::Spec(s) if s.name.is_some()));
    let list: Vec<Value> = match values.kind() {
        ValueKind::Seq if is_tuple(values) => values.try_iter()?.collect(),
        ValueKind::Map | ValueKind::Seq if named || wanted == 0 => Vec::new(),
        _ => vec![values.clone()],
    };
    if !named && list.len() < wanted {
        return Err(bad("not enough arguments for format string"));
    }
    if !named && list.len() > wanted {
        return Err(bad("not all arguments converted during string formatting"));
    }
    let mut next = list.into_iter();
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(&text),
            Part::Spec(mut s) => {
                if s.star {
                    let width = next.next().filter(|v| v.is_integer()).and_then(|v| i64::try_from(v).ok()).ok_or_else(|| bad("* wants int"))?;
                    s.left |= width < 0;
                    s.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
                    if s.width > 1 << 20 {
                        return Err(bad("a width of more than a million"));
                    }
                }
                let value = match &s.name {
                    Some(name) => values.get_attr(name)?,
                    None => next.next().ok_or_else(|| bad("not enough arguments for format string"))?,
                };
                let text = s.format(&value)?;
                bounds::grow(out.len(), text.len())?;
                out.push_str(&text);
            }
        }
    }
    Ok(out)
}

impl Spec {
    fn format(&self, v: &Value) -> Result<String, Error> {
        let cut = |text: String| match self.precision {
            Some(n) => text.chars().take(n).collect(),
            None => text,
        };
        let v = &if "sra".contains(self.conversion) { v.clone() } else { counted(v) };
        let float = || f64::try_from(v.clone()).map_err(|_| bad(format!("%{} format: a real number is required, not {}", self.conversion, v.kind())));
        let whole = || -> Result<i128, Error> { i128::try_from(v.clone()).or_else(|_| float().map(|f| f.trunc() as i128)) };
        let precision = self.precision.unwrap_or(6);
        let prefix = |text: &'static str| if self.alternate { text } else { "" };
        let (number, body) = match self.conversion {
            's' => (false, cut(str(v))),
            'r' => (false, cut(repr(v))),
            'a' => (false, cut(ascii(&repr(v)))),
            'c' if v.is_integer() => (false, char::from_u32(whole()? as u32).unwrap_or('\u{fffd}').to_string()),
            'c' => (false, str(v)),
            'd' | 'i' | 'u' => (true, whole()?.to_string()),
            'x' => (true, signed(whole()?, |n| format!("{}{n:x}", prefix("0x")))),
            'X' => (true, signed(whole()?, |n| format!("{}{n:X}", prefix("0X")))),
            'o' => (true, signed(whole()?, |n| format!("{}{n:o}", prefix("0o")))),
            'f' | 'F' => (true, format!("{:.*}", precision, float()?)),
            'e' | 'E' | 'g' | 'G' => (true, scientific(self.conversion, float()?, precision)),
            other => return Err(bad(format!("unsupported format character {other:?}"))),
        };
        let (sign, digits) = match body.strip_prefix('-') {
            Some(digits) if number => ("-", digits),
            _ if number && self.plus => ("+", &body[..]),
            _ if number && self.space => (" ", &body[..]),
            _ => ("", &body[..]),
        };
        let missing = self.width.saturating_sub(sign.len() + digits.chars().count());
        Ok(if self.left {
            format!("{sign}{digits}{}", " ".repeat(missing))
        } else if self.zero && number {
            format!("{sign}{}{digits}", "0".repeat(missing))
        } else {
            format!("{}{sign}{digits}", " ".repeat(missing))
        })
    }
}

/// What `ascii()` makes of a printed value.
fn ascii(s: &str) -> String {
    let mut out = String::new();
    for c in s.chars() {
        match c as u32 {
            0..=0x7f => out.push(c),
            n @ 0x80..=0xff => write!(out, "\\x{n:02x}").unwrap(),
            n @ 0x100..=0xffff => write!(out, "\\u{n:04x}").unwrap(),
            n => write!(out, "\\U{n:08x}").unwrap(),
        }
    }
    out
}

fn signed(n: i128, digits: impl Fn(u128) -> String) -> String {
    format!("{}{}", if n < 0 { "-" } else { "" }, digits(n.unsigned_abs()))
}

/// %e, %E, %g or %G.
pub fn scientific(conversion: char, f: f64, precision: usize) -> String {
    let text = if conversion.eq_ignore_ascii_case(&'e') { exponent(f, precision) } else { general(f, precision.max(1)) };
    if conversion.is_ascii_uppercase() {
        text.to_uppercase()
    } else {
        text
    }
}

/// C's %e.
fn exponent(f: f64, precision: usize) -> String {
    let text = format!("{f:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let n: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs())
}

/// C's %g.
fn general(f: f64, precision: usize) -> String {
    if f == 0.0 {
        return "0".into();
    }
    let scientific = exponent(f, precision - 1);
    let Some((mantissa, power)) = scientific.split_once('e') else { return scientific };
    let n: i32 = power.parse().unwrap_or(0);
    let trim = |text: &str| if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() };
    if n < -4 || n >= precision as i32 {
        return format!("{}e{power}", trim(mantissa));
    }
    trim(&format!("{:.*}", (precision as i32 - 1 - n).max(0) as usize, f))
}
