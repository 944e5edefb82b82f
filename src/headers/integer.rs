//! Integers as text, without the formatting machinery.

/// Writes an integer of up to sixteen digits, more than any amount or time has.
#[inline]
pub(super) fn write_integer(out: &mut Vec<u8>, integer: u64) {
    const EIGHT_DIGITS: u64 = 100_000_000;
    let (high, low) = (integer / EIGHT_DIGITS, integer % EIGHT_DIGITS);
    let first = eight_digits(if high > 0 { high } else { low });
    let zeros = (first.trailing_zeros() / 8).min(7);
    let text = (first | ZEROS) >> (8 * zeros);
    out.extend_from_slice(&text.to_le_bytes());
    out.truncate(out.len() - zeros as usize);
    if high > 0 {
        out.extend_from_slice(&(eight_digits(low) | ZEROS).to_le_bytes());
    }
}

/// The decimal digits of an integer below 100,000,000, one in each byte, the highest in the lowest
/// byte: halved three times, all parts of one size at once.
fn eight_digits(integer: u64) -> u64 {
    let fours = (integer / 10_000) | ((integer % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7F_0000_007F;
    let twos = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000F_000F_000F_000F;
    tens | ((twos - tens * 10) << 8)
}

/// `0` in each byte.
const ZEROS: u64 = 0x3030_3030_3030_3030;
