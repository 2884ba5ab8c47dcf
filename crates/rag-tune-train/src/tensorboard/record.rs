//! TFRecord: each record is its length (`u64`), a checksum of the length, its bytes, a checksum of the bytes, all little
//! endian (tensorflow/core/lib/io/record_writer.h).

/// Length and its checksum.
const HEADER: usize = 12;
const FOOTER: usize = 4;

/// `data` as a record.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(HEADER + data.len() + FOOTER);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// The bytes of the first record and its length in the file; `None` at the end, or where it is torn or altered.
pub(super) fn first(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let length_bytes = bytes.get(..8)?;
    let crc = |at: usize| -> Option<u32> {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    if crc(8)? != masked_crc(length_bytes) {
        return None;
    }
    let length = u64::from_le_bytes(length_bytes.try_into().ok()?);
    let end = HEADER.checked_add(usize::try_from(length).ok()?)?;
    let data = bytes.get(HEADER..end)?;
    (crc(end)? == masked_crc(data)).then_some((data, end + FOOTER))
}

/// The checksum, turned so that the checksum of data that holds one is no special case.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli; RFC 3720, B.4), bit by bit: a step writes some hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_record_is_read_back_and_a_torn_or_altered_one_is_not() {
        let mut bytes = framed(b"one");
        bytes.extend(framed(b""));
        let (data, length) = first(&bytes).unwrap();
        assert_eq!((data, length), (&b"one"[..], 19));
        assert_eq!(first(&bytes[19..]), Some((&b""[..], 16)));
        for end in 0..19 {
            assert_eq!(first(&bytes[..end]), None);
        }
        for at in 0..19 {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(first(&altered), None, "byte {at}");
        }
    }
}
