use std::fmt;
use std::str::FromStr;

/// An exact quantity: tokens, seconds, bytes, credits.
///
/// A signed fixed-point number with six decimals in an `i64`, so it reaches about ±9.2 × 10¹² and
/// `0.1 + 0.2` is `0.3`. Pick a unit whose millionth part is small enough for your prices: cents or
/// micro-dollars rather than thousands of dollars.
///
/// ```
/// use tower_limitry::policy::Amount;
///
/// let price: Amount = "0.15".parse()?; // dollars for a million tokens
/// let cost = Amount::from(812).at_price_per_million(price)?;
/// assert_eq!(cost.to_string(), "0.000122");
/// # Ok::<_, tower_limitry::policy::AmountError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(i64);

const DECIMALS: u32 = 6;
const SCALE: i64 = 1_000_000;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole unit.
    pub const ONE: Self = Self(SCALE);
    /// The largest amount, about 9.2 × 10¹².
    pub const MAX: Self = Self(i64::MAX);
    /// The smallest amount, about -9.2 × 10¹².
    pub const MIN: Self = Self(i64::MIN);

    /// An amount from its millionths, the form in which stores keep it.
    pub const fn from_millionths(millionths: i64) -> Self {
        Self(millionths)
    }

    /// The amount in millionths.
    pub const fn as_millionths(self) -> i64 {
        self.0
    }

    /// Whether this is less than zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether this is more than zero.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// The sum, or `None` when it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` when it does not fit.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The sum, held at [`MAX`](Self::MAX) or [`MIN`](Self::MIN) when it does not fit.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, held at [`MAX`](Self::MAX) or [`MIN`](Self::MIN) when it does not fit.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The whole units, rounded down.
    pub const fn floor(self) -> i64 {
        self.0.div_euclid(SCALE)
    }

    /// What this quantity costs at a price for a million of it.
    ///
    /// Multiplied in 128 bits and rounded once, half to even.
    ///
    /// # Errors
    ///
    /// [`AmountError::Overflow`] when the cost does not fit.
    pub fn at_price_per_million(self, price: Self) -> Result<Self, AmountError> {
        let product = i128::from(self.0) * i128::from(price.0);
        let divisor = i128::from(SCALE) * 1_000_000;
        Self::from_wide(divide_half_even(product, divisor), self.0 < 0)
    }

    /// This amount times `percent` per cent, rounded up: the usage at which an alert is due.
    pub(crate) fn percent(self, percent: u8) -> Self {
        let product = i128::from(self.0) * i128::from(percent);
        let quotient = product.div_euclid(100) + i128::from(product.rem_euclid(100) != 0);
        Self(i64::try_from(quotient).unwrap_or(i64::MAX))
    }

    fn from_wide(millionths: i128, negative: bool) -> Result<Self, AmountError> {
        i64::try_from(millionths).map(Self).map_err(|_| AmountError::overflow(negative))
    }

    fn from_whole(whole: i128) -> Result<Self, AmountError> {
        match whole.checked_mul(i128::from(SCALE)) {
            Some(millionths) => Self::from_wide(millionths, whole < 0),
            None => Err(AmountError::overflow(whole < 0)),
        }
    }

    /// Writes the decimal form into `buffer` and returns the part used.
    pub(crate) fn write(self, buffer: &mut [u8; 24]) -> &str {
        let magnitude = self.0.unsigned_abs();
        let (mut whole, mut fraction) = (magnitude / SCALE as u64, magnitude % SCALE as u64);
        let mut at = buffer.len();
        if fraction != 0 {
            let mut digits = DECIMALS;
            while fraction % 10 == 0 {
                fraction /= 10;
                digits -= 1;
            }
            for _ in 0..digits {
                at -= 1;
                buffer[at] = b'0' + (fraction % 10) as u8;
                fraction /= 10;
            }
            at -= 1;
            buffer[at] = b'.';
        }
        loop {
            at -= 1;
            buffer[at] = b'0' + (whole % 10) as u8;
            whole /= 10;
            if whole == 0 {
                break;
            }
        }
        if self.0 < 0 {
            at -= 1;
            buffer[at] = b'-';
        }
        std::str::from_utf8(&buffer[at..]).unwrap_or_default()
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.write(&mut [0; 24]))
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many digits of a number are read. They are far beyond any amount; what follows only decides
/// rounding.
const MOST_DIGITS: u32 = 31;

/// Reads a JSON number or the same text: `12`, `-0.5`, `1e-7`. More than six decimals round half to
/// even; nothing passes through a float.
impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let bytes = text.as_bytes();
        let (negative, mut at) = match bytes.first() {
            Some(b'-') => (true, 1),
            _ => (false, 0),
        };
        let mut mantissa: i128 = 0;
        let mut exponent: i64 = 0;
        let (mut digits, mut point, mut lost) = (false, false, false);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'0'..=b'9' => {
                    digits = true;
                    if mantissa < 10_i128.pow(MOST_DIGITS - 1) {
                        mantissa = mantissa * 10 + i128::from(byte - b'0');
                        exponent -= i64::from(point);
                    } else {
                        lost |= *byte != b'0';
                        exponent += i64::from(!point);
                    }
                }
                b'.' if !point && digits => point = true,
                _ => break,
            }
            at += 1;
        }
        if !digits || bytes.get(at.wrapping_sub(1)) == Some(&b'.') {
            return Err(AmountError::NotANumber);
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            let rest = &text[at + 1..];
            let sign_free = rest.strip_prefix(['+', '-']).unwrap_or(rest);
            if sign_free.is_empty() || !sign_free.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(AmountError::NotANumber);
            }
            let bound = if rest.starts_with('-') { -10_000 } else { 10_000 };
            exponent = exponent.saturating_add(rest.parse().unwrap_or(bound));
            at = bytes.len();
        }
        if at != bytes.len() {
            return Err(AmountError::NotANumber);
        }
        if mantissa == 0 {
            return Ok(Self::ZERO);
        }
        let shift = exponent.saturating_add(i64::from(DECIMALS));
        let magnitude = if shift >= 0 {
            u32::try_from(shift)
                .ok()
                .and_then(|shift| 10_i128.checked_pow(shift))
                .and_then(|factor| mantissa.checked_mul(factor))
                .ok_or(AmountError::overflow(negative))?
        } else {
            match u32::try_from(shift.unsigned_abs()).ok().filter(|shift| *shift <= MOST_DIGITS) {
                // A digit that was cut off can only break a tie, and then upwards.
                Some(shift) => {
                    divide_half_even(mantissa * 2 + i128::from(lost), 10_i128.pow(shift) * 2)
                }
                // Less than a tenth of a millionth.
                None => 0,
            }
        };
        Self::from_wide(if negative { -magnitude } else { magnitude }, negative)
    }
}

fn divide_half_even(dividend: i128, divisor: i128) -> i128 {
    let quotient = dividend.div_euclid(divisor);
    let twice = dividend.rem_euclid(divisor) * 2;
    let up = twice > divisor || (twice == divisor && quotient % 2 != 0);
    quotient + i128::from(up)
}

/// Why a number is not an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AmountError {
    /// Not a decimal number, or a float that is NaN or infinite.
    NotANumber,
    /// Beyond ±9.2 × 10¹².
    Overflow {
        /// Whether the number is below the smallest amount rather than above the largest.
        negative: bool,
    },
}

impl AmountError {
    fn overflow(negative: bool) -> Self {
        Self::Overflow { negative }
    }
}

impl fmt::Display for AmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotANumber => "not a finite decimal number such as 12, -0.5 or 1e-7",
            Self::Overflow { .. } => {
                "beyond the largest amount of 9,223,372,036,854; choose a larger unit"
            }
        })
    }
}

impl std::error::Error for AmountError {}

impl From<std::convert::Infallible> for AmountError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// What can be given where an [`Amount`] is wanted: whole numbers, floats, decimal text.
///
/// A float is taken at the shortest decimal text that names it, so `0.1` is one tenth.
pub trait ToAmount {
    /// The exact amount.
    ///
    /// # Errors
    ///
    /// [`AmountError`] for NaN, infinities, text that is no number and anything too large.
    fn to_amount(&self) -> Result<Amount, AmountError>;
}

impl ToAmount for Amount {
    fn to_amount(&self) -> Result<Amount, AmountError> {
        Ok(*self)
    }
}

macro_rules! whole_numbers {
    ($($whole:ty)*) => {$(
        impl ToAmount for $whole {
            fn to_amount(&self) -> Result<Amount, AmountError> {
                i128::try_from(*self)
                    .map_err(|_| AmountError::overflow(false))
                    .and_then(Amount::from_whole)
            }
        }
    )*};
}
whole_numbers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

impl ToAmount for f64 {
    fn to_amount(&self) -> Result<Amount, AmountError> {
        if self.is_nan() {
            return Err(AmountError::NotANumber);
        }
        if self.abs() > 1e13 {
            return Err(AmountError::overflow(*self < 0.0));
        }
        self.to_string().parse()
    }
}

impl ToAmount for f32 {
    fn to_amount(&self) -> Result<Amount, AmountError> {
        if !self.is_finite() || self.abs() > 1e13 {
            return f64::from(*self).to_amount();
        }
        self.to_string().parse()
    }
}

impl ToAmount for str {
    fn to_amount(&self) -> Result<Amount, AmountError> {
        self.parse()
    }
}

impl<T: ToAmount + ?Sized> ToAmount for &T {
    fn to_amount(&self) -> Result<Amount, AmountError> {
        (**self).to_amount()
    }
}

macro_rules! always_fits {
    ($($whole:ty)*) => {$(
        impl From<$whole> for Amount {
            fn from(whole: $whole) -> Self {
                Self(i64::from(whole) * SCALE)
            }
        }
    )*};
}
always_fits!(u8 u16 u32 i8 i16 i32);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        text.parse::<Amount>()
            .map_or_else(|error| format!("{error:?}"), |amount| amount.to_string())
    }

    #[test]
    fn reads_and_writes_decimals_exactly() {
        for (text, written) in [
            ("0", "0"),
            ("-0", "0"),
            ("12", "12"),
            ("-0.5", "-0.5"),
            ("0.1", "0.1"),
            ("1.000001", "1.000001"),
            ("1e3", "1000"),
            ("1E-6", "0.000001"),
            ("1e-7", "0"),
            ("123456789.123456", "123456789.123456"),
            ("9223372036854.775807", "9223372036854.775807"),
            ("-9223372036854.775808", "-9223372036854.775808"),
            ("0e999999999999999999999", "0"),
            ("1e-999999999999999999999", "0"),
        ] {
            assert_eq!(read(text), written, "{text}");
        }
    }

    #[test]
    fn rounds_half_to_even_once() {
        for (text, written) in [
            ("0.0000005", "0"),
            ("0.0000015", "0.000002"),
            ("0.0000025", "0.000002"),
            ("0.00000250000000000000000000000000000000000001", "0.000003"),
            ("-0.0000015", "-0.000002"),
            ("-0.0000025", "-0.000002"),
            ("0.9999995", "1"),
        ] {
            assert_eq!(read(text), written, "{text}");
        }
    }

    #[test]
    fn what_is_smaller_than_half_a_millionth_is_nothing_however_small() {
        for digits in ["1", "4.999", "5.759166499319742", "9".repeat(30).as_str(), &"9".repeat(99)]
        {
            let before_point = digits.split('.').next().unwrap_or_default().len();
            for exponent in before_point + 7..before_point + 70 {
                let text = format!("{digits}e-{exponent}");
                assert_eq!(read(&text), "0", "{text}");
                assert_eq!(read(&format!("-{text}")), "0", "-{text}");
            }
        }
        let nines = "9".repeat(31);
        assert_eq!(
            read(&format!("{nines}e-37")),
            "1e-6".parse::<Amount>().unwrap_or(Amount::MAX).to_string()
        );
    }

    #[test]
    fn refuses_what_is_no_number_or_too_large() {
        for text in ["", "-", "+1", ".5", "1.", "1e", "1e+", "NaN", "inf", "1 ", "0x1", "1..2", "١"]
        {
            assert_eq!(read(text), "NotANumber", "{text}");
        }
        for text in [
            "9223372036854.775808",
            "1e13",
            "1e99999999999999999999",
            "99999999999999999999999999999999999999999",
        ] {
            assert_eq!(read(text), "Overflow { negative: false }", "{text}");
        }
        assert_eq!(read("-1e13"), "Overflow { negative: true }");
        assert_eq!(f64::NAN.to_amount(), Err(AmountError::NotANumber));
        assert_eq!(f64::NEG_INFINITY.to_amount(), Err(AmountError::overflow(true)));
        assert_eq!(u64::MAX.to_amount(), Err(AmountError::overflow(false)));
        assert_eq!(u128::MAX.to_amount(), Err(AmountError::overflow(false)));
        assert_eq!(0.1_f64.to_amount(), "0.1".to_amount());
        assert_eq!(0.1_f32.to_amount(), "0.1".to_amount());
    }

    #[test]
    fn prices_are_multiplied_wide_and_rounded_once() {
        let price = |text: &str| text.parse::<Amount>().unwrap();
        assert_eq!(Amount::from(1_000_000).at_price_per_million(price("2.5")), Ok(price("2.5")));
        assert_eq!(Amount::from(1).at_price_per_million(price("2.5")), Ok(price("0.000002")));
        assert_eq!(Amount::from(3).at_price_per_million(price("2.5")), Ok(price("0.000008")));
        assert!(Amount::MAX.at_price_per_million(Amount::MAX).is_err());
    }

    #[test]
    fn a_percentage_rounds_up() {
        assert_eq!(Amount::from(1_000).percent(75), Amount::from(750));
        assert_eq!(Amount::from_millionths(3).percent(50), Amount::from_millionths(2));
    }
}
