//! Log-linear buckets: 32 to an octave, so no bucket is wider than 1/32 (3.2 %) of its lower edge.

/// Values below this many nanoseconds share bucket 0.
pub const FLOOR_NS: u64 = 1 << FLOOR_BITS;
const FLOOR_BITS: u32 = 10;
const SUB_BITS: u32 = 5;
/// Values from 2^41 ns (36 minutes) on share the last bucket.
const CEIL_BITS: u32 = 41;
/// Number of buckets, the two open ones included.
pub const BUCKETS: usize = ((CEIL_BITS - FLOOR_BITS) << SUB_BITS) as usize + 2;

/// The bucket that counts `ns`.
#[inline(always)]
pub const fn bucket_of(ns: u64) -> usize {
    if ns < FLOOR_NS {
        return 0;
    }
    if ns >= 1 << CEIL_BITS {
        return BUCKETS - 1;
    }
    let octave = ns.ilog2();
    let sub = (ns >> (octave - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    1 + (((octave - FLOOR_BITS) as usize) << SUB_BITS) + sub as usize
}

/// Lower edge (inclusive) and upper edge (exclusive) of a bucket in nanoseconds; the last one's upper edge is `u64::MAX`.
pub const fn edges_ns(bucket: usize) -> (u64, u64) {
    if bucket == 0 {
        return (0, FLOOR_NS);
    }
    if bucket >= BUCKETS - 1 {
        return (1 << CEIL_BITS, u64::MAX);
    }
    let index = (bucket - 1) as u64;
    let octave = FLOOR_BITS as u64 + (index >> SUB_BITS);
    let sub = index & ((1 << SUB_BITS) - 1);
    let width = 1u64 << (octave - SUB_BITS as u64);
    let low = (1u64 << octave) + sub * width;
    (low, low + width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_buckets_cover_everything_without_gaps() {
        assert_eq!(edges_ns(0).0, 0);
        for bucket in 1..BUCKETS {
            assert_eq!(edges_ns(bucket - 1).1, edges_ns(bucket).0, "between {} and {bucket}", bucket - 1);
        }
        assert_eq!(edges_ns(BUCKETS - 1).1, u64::MAX);
    }

    #[test]
    fn no_bucket_is_wider_than_five_percent() {
        for bucket in 1..BUCKETS - 1 {
            let (low, high) = edges_ns(bucket);
            assert!((high - low) * 20 <= low, "bucket {bucket}: {low}..{high}");
        }
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(ns in any::<u64>(), shift in 0u32..64) {
            let ns = ns >> shift;
            let (low, high) = edges_ns(bucket_of(ns));
            prop_assert!(low <= ns && (ns < high || high == u64::MAX));
        }
    }
}
