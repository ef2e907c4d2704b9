//! Quantities: exact decimal numbers with the suffixes of resource amounts (`500m`, `1Gi`, `1e3`).
//!
//! Follows `k8s.io/apimachinery/pkg/api/resource`: grammar, error texts, rounding up to a nano, the canonical
//! form (`0.5` is written `500m`, `1024Mi` is written `1Gi`), and rounding away from zero when read as integer.
//!
//! A quantity is a 128-bit mantissa and a decimal scale; numbers with more than 38 digits are cut to the
//! greatest value that fits.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Which suffixes a quantity is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `1e3`, `12e6`.
    DecimalExponent,
    /// `1Ki`, `2Gi`.
    BinarySi,
    /// `5m`, `3k`.
    DecimalSi,
}

/// An exact number: `mantissa * 10^scale`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    mantissa: i128,
    scale: i32,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text does not have the form of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is not one.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is not one.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The greatest binary quantity (2^63 - 1), to which greater ones are cut.
const MAX_BINARY: i128 = i64::MAX as i128;
/// The smallest step, as upstream keeps it.
const NANO: i32 = -9;
/// Exponents beyond these cannot be told from the extremes.
const EXPONENT_LIMIT: i64 = 60;

fn pow10(n: u32) -> Option<i128> {
    10i128.checked_pow(n)
}

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { mantissa: 0, scale: 0, format: Format::DecimalSi };

    /// A whole number in decimal notation.
    pub fn from_int(n: i64) -> Self {
        Quantity { mantissa: i128::from(n), scale: 0, format: Format::DecimalSi }
    }

    /// Thousandths, as CPU amounts are counted.
    pub fn from_milli(n: i64) -> Self {
        Quantity { mantissa: i128::from(n), scale: -3, format: Format::DecimalSi }
    }

    /// A whole number in binary notation, as memory amounts are written.
    pub fn from_bytes(n: i64) -> Self {
        Quantity { mantissa: i128::from(n), scale: 0, format: Format::BinarySi }
    }

    /// The notation.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether this is zero.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        match self.mantissa.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// The number in units of `10^scale`, rounded away from zero, and whether it was exact. Cut to the range.
    fn scaled(&self, scale: i32) -> (i128, bool) {
        if self.scale >= scale {
            let up = (self.scale - scale).unsigned_abs();
            let value = pow10(up).and_then(|f| self.mantissa.checked_mul(f));
            let extreme = if self.mantissa < 0 { i128::MIN } else { i128::MAX };
            let zero = self.mantissa == 0;
            return (if zero { 0 } else { value.unwrap_or(extreme) }, zero || value.is_some());
        }
        let down = (scale - self.scale).unsigned_abs();
        match pow10(down) {
            None => (i128::from(self.sign()), self.mantissa == 0),
            Some(f) => {
                let (q, r) = (self.mantissa / f, self.mantissa % f);
                (if r == 0 { q } else { q + i128::from(self.sign()) }, r == 0)
            }
        }
    }

    fn clamp(n: i128) -> i64 {
        i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
    }

    /// The number as an integer, rounded away from zero.
    pub fn value(&self) -> i64 {
        Self::clamp(self.scaled(0).0)
    }

    /// The number as an integer, if it is one that fits.
    pub fn as_int(&self) -> Option<i64> {
        let (value, exact) = self.scaled(0);
        i64::try_from(value).ok().filter(|_| exact)
    }

    /// The number in thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        Self::clamp(self.scaled(-3).0)
    }

    /// The number in whole thousandths, rounded away from zero. Upstream: `RoundUp(Milli)`.
    pub fn in_whole_millis(self) -> Self {
        let (mantissa, exact) = self.scaled(-3);
        if exact { self } else { Quantity { mantissa, scale: -3, format: self.format } }
    }

    /// The least whole number that is not below this one.
    pub fn round_up(self) -> Self {
        let (mantissa, exact) = self.scaled(0);
        if exact { self } else { Quantity { mantissa, scale: 0, format: self.format } }
    }

    /// The number as a float, for ratios.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.scale)
    }

    fn aligned(self, other: Self) -> (i128, i128, i32) {
        let scale = self.scale.min(other.scale);
        (self.scaled(scale).0, other.scaled(scale).0, scale)
    }

    fn combine(self, other: Self, f: impl Fn(i128, i128) -> i128) -> Self {
        let (a, b, scale) = self.aligned(other);
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { mantissa: f(a, b), scale, format }
    }
}

/// The sum; keeps the notation of the left side unless that is zero.
impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Self) -> Self {
        self.combine(other, i128::saturating_add)
    }
}

/// The difference; keeps the notation of the left side unless that is zero.
impl std::ops::Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Self) -> Self {
        self.combine(other, i128::saturating_sub)
    }
}

impl std::ops::Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Self {
        Quantity { mantissa: self.mantissa.saturating_neg(), ..self }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.scale == other.scale {
            return self.mantissa.cmp(&other.mantissa);
        }
        let (a, b, _) = self.aligned(*other);
        a.cmp(&b)
    }
}

fn binary_exponent(suffix: &str) -> Option<u32> {
    Some(match suffix {
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        "Pi" => 50,
        "Ei" => 60,
        _ => return None,
    })
}

fn decimal_exponent(suffix: &str) -> Option<i32> {
    Some(match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        _ => return None,
    })
}

/// Splits into sign, whole digits, digits after the point, and suffix.
fn split(text: &str) -> Result<(bool, &str, &str, &str), ParseError> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |n| from + n);
    let mut at = 0;
    let negative = bytes.first() == Some(&b'-');
    if matches!(bytes.first(), Some(b'-' | b'+')) {
        at = 1;
    }
    let end = digits(at);
    let whole = &text[at..end];
    at = end;
    let mut fraction = "";
    if bytes.get(at) == Some(&b'.') {
        let end = digits(at + 1);
        fraction = &text[at + 1..end];
        at = end;
    }
    let suffix = &text[at..];
    let mut end = at;
    while bytes.get(end).is_some_and(|b| b"eEinumkKMGTP".contains(b)) {
        end += 1;
    }
    if matches!(bytes.get(end), Some(b'-' | b'+')) {
        end += 1;
    }
    if digits(end) != bytes.len() {
        return Err(ParseError::Format);
    }
    Ok((negative, whole, fraction, suffix))
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let (negative, whole, fraction, suffix) = split(text)?;
        let (binary, exponent, mut format) = if suffix.is_empty() {
            (None, 0, Format::DecimalSi)
        } else if let Some(bits) = binary_exponent(suffix) {
            (Some(bits), 0, Format::BinarySi)
        } else if let Some(exponent) = decimal_exponent(suffix) {
            (None, exponent, Format::DecimalSi)
        } else if suffix.len() > 1 && matches!(suffix.as_bytes()[0], b'e' | b'E') {
            let n: i64 = suffix[1..].parse().map_err(|_| ParseError::Suffix)?;
            (None, n.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT) as i32, Format::DecimalExponent)
        } else {
            return Err(ParseError::Suffix);
        };
        // Upstream takes a suffix alone for zero, unless it is so large that the digits are parsed another way.
        if whole.is_empty() && fraction.is_empty() && binary.is_some_and(|bits| bits >= 50) {
            return Err(ParseError::Numeric);
        }
        let mut mantissa: i128 = 0;
        let mut scale = exponent;
        let mut cut = false;
        for (digit, after_point) in whole.bytes().map(|b| (b, false)).chain(fraction.bytes().map(|b| (b, true))) {
            match mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0'))) {
                // Room for a binary suffix is kept.
                Some(m) if m < i128::MAX >> (binary.unwrap_or(0) + 1) => {
                    mantissa = m;
                    scale -= i32::from(after_point);
                }
                _ => {
                    cut |= digit != b'0';
                    scale += i32::from(!after_point);
                }
            }
        }
        if cut {
            mantissa += 1;
        }
        if let Some(bits) = binary {
            mantissa <<= bits;
        }
        // A value too small to be kept becomes the smallest that can.
        if scale < NANO {
            let q = Quantity { mantissa, scale, format };
            (mantissa, scale) = (q.scaled(NANO).0, NANO);
        }
        let mut q = Quantity { mantissa, scale, format };
        if format == Format::BinarySi {
            if q.cmp(&Quantity::from_int(i64::MAX)) == Ordering::Greater {
                q = Quantity { mantissa: MAX_BINARY, scale: 0, format };
            }
            if q.mantissa > 0 && q.cmp(&Quantity::from_int(1)) == Ordering::Less {
                format = Format::DecimalSi;
                q.format = format;
            }
        }
        if negative {
            q.mantissa = -q.mantissa;
        }
        Ok(q)
    }
}

/// Removes factors of `base`; returns what is left and how many there were.
fn without_factors(mut n: i128, base: i128) -> (i128, i32) {
    let mut times = 0;
    while n != 0 && n % base == 0 {
        n /= base;
        times += 1;
    }
    (n, times)
}

/// The canonical form.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        let mut format = self.format;
        let mut whole = 0;
        if format == Format::BinarySi {
            let (value, exact) = self.scaled(0);
            whole = value;
            if !exact || (-1024 < value && value < 1024) {
                format = Format::DecimalSi;
            }
        }
        if format == Format::BinarySi {
            let (mut number, mut times) = without_factors(whole, 1024);
            while times > 6 {
                number *= 1024;
                times -= 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][times.unsigned_abs() as usize];
            return write!(f, "{number}{suffix}");
        }
        let (mut number, times) = without_factors(self.mantissa, 10);
        let mut exponent = self.scale + times;
        for _ in 0..exponent.rem_euclid(3) {
            number = number.saturating_mul(10);
            exponent -= 1;
        }
        if format == Format::DecimalSi && !(-9..=18).contains(&exponent) {
            format = Format::DecimalExponent;
        }
        match (format, exponent) {
            (_, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, e) => write!(f, "{number}e{e}"),
            (_, e) => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((e + 9) / 3).unsigned_abs() as usize];
                write!(f, "{number}{suffix}")
            }
        }
    }
}

/// The canonical form of a text that stands for a quantity.
pub fn canonical(text: &str) -> Result<String, ParseError> {
    Ok(text.parse::<Quantity>()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(cases: &[(&str, &str)]) {
        for (text, want) in cases {
            let got = canonical(text).unwrap_or_else(|e| e.to_string());
            assert_eq!(&got, want, "{text}");
        }
    }

    #[test]
    fn a_suffix_alone_is_what_upstream_makes_of_it() {
        const NUMERIC: &str = "unable to parse numeric part of quantity";
        check(&[
            ("Mi", "0"),
            ("k", "0"),
            (".", "0"),
            ("-", "0"),
            ("Ti", "0"),
            ("Pi", NUMERIC),
            ("-Ei", NUMERIC),
            ("0Ei", "0"),
        ]);
    }

    #[test]
    fn millis_are_rounded_away_from_zero() {
        for (text, want) in
            [("1500u", "2m"), ("1n", "1m"), ("-1n", "-1m"), ("1m", "1m"), ("1Gi", "1Gi"), ("100e-6", "1e-3")]
        {
            assert_eq!(text.parse::<Quantity>().expect("a quantity").in_whole_millis().to_string(), want);
        }
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        check(&[
            ("0", "0"),
            ("0n", "0"),
            ("-0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Mi", "512Ki"),
            ("0.1Mi", "104857600m"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e5", "1200e3"),
            ("1E", "1E"),
            ("+5", "5"),
            ("-5Gi", "-5Gi"),
            ("0.0000000001", "1n"),
            (".5", "500m"),
            ("5.", "5"),
            ("100000000000", "100G"),
            ("9223372036854775807", "9223372036854775807"),
            ("16Ei", "9223372036854775807"),
            ("8E", "8E"),
        ]);
    }

    #[test]
    fn bad_texts_get_upstreams_words() {
        let format = ParseError::Format.to_string();
        for text in ["", "abc", "1.2.3", "1 Gi", "é", "1G i"] {
            assert_eq!(canonical(text), Err(ParseError::Format), "{text}: {format}");
        }
        for text in ["1kk", "1K", "1i", "1e", "1mi", "--1"] {
            assert_eq!(canonical(text), Err(ParseError::Suffix), "{text}");
        }
    }

    #[test]
    fn numbers_round_away_from_zero() {
        let q = |s: &str| s.parse::<Quantity>().expect(s);
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("-100m").value(), -1);
        assert_eq!(q("1500m").milli_value(), 1500);
        assert_eq!(q("1n").milli_value(), 1);
        assert_eq!(q("2Gi").value(), 2 << 30);
        assert_eq!(q("1e60").value(), i64::MAX);
        assert!(q("1Gi") > q("1G") && q("0.5") == q("500m"));
        assert_eq!((q("1Gi") + q("1Mi")).to_string(), "1025Mi");
        assert_eq!((q("1") - q("100m")).to_string(), "900m");
        assert_eq!((Quantity::ZERO + q("1Ki")).to_string(), "1Ki");
        assert_eq!(Quantity::from_milli(250).to_string(), "250m");
        assert_eq!(Quantity::from_bytes(1 << 20).to_string(), "1Mi");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,24}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn the_canonical_form_is_stable(text in "[+-]?[0-9]{1,30}(\\.[0-9]{0,12})?(n|u|m|k|Ki|Mi|Gi|Ei|e-?[0-9]{1,3})?") {
            if let Ok(first) = canonical(&text) {
                prop_assert_eq!(canonical(&first), Ok(first.clone()));
            }
        }
    }
}
