//! How far the pull of an image is. Passing news: never kept, never signed, and the newest is all that counts.

use std::fmt;

const MIB: u64 = 1024 * 1024;

/// One image that is being pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulling {
    /// The image as the slice or the order names it.
    pub image: String,
    /// Layers that are on the host.
    pub layers_done: u32,
    /// Layers that are known of.
    pub layers: u32,
    /// Bytes that have come.
    pub bytes_done: u64,
    /// Bytes of the layers that have begun to come; the sum grows while new ones begin.
    pub bytes: u64,
    /// Whether it waits until other pulls are done.
    pub waiting: bool,
}

impl fmt::Display for Pulling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, layers_done, layers, bytes_done, bytes, waiting } = self;
        if *waiting {
            return write!(f, "`{image}` waits for other pulls");
        }
        write!(f, "pulling `{image}`")?;
        if *layers == 0 {
            return Ok(());
        }
        write!(f, ": {layers_done} of {layers} layers")?;
        if *bytes == 0 {
            return Ok(());
        }
        let tenths = |bytes: u64| {
            let tenths = bytes.saturating_mul(10) / MIB;
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        write!(f, ", {} of {} MiB", tenths(*bytes_done), tenths(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_is_known() {
        let mut pulling = Pulling { image: "a:1".into(), waiting: true, ..Pulling::default() };
        assert_eq!(pulling.to_string(), "`a:1` waits for other pulls");
        pulling.waiting = false;
        assert_eq!(pulling.to_string(), "pulling `a:1`");
        (pulling.layers_done, pulling.layers) = (1, 3);
        assert_eq!(pulling.to_string(), "pulling `a:1`: 1 of 3 layers");
        (pulling.bytes_done, pulling.bytes) = (MIB + MIB / 4, 3 * MIB);
        assert_eq!(pulling.to_string(), "pulling `a:1`: 1 of 3 layers, 1.2 of 3.0 MiB");
    }
}
