//! Undoes content encodings on the side, so that compressed bodies can be read while they pass.
//!
//! No decoder holds more than its window: 32 KiB for gzip and deflate, at most 16 MiB for brotli and
//! 8 MiB for zstd ([RFC 9659](https://www.rfc-editor.org/rfc/rfc9659)). What asks for more, is corrupt,
//! or grows beyond all measure, is read no further.

mod zstd;

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;

use self::zstd::Zstd;
use super::{Measured, Watch};
use crate::policy::Usage;

/// How many bytes one may decode to. gzip and deflate cannot reach that, honest texts do not.
const MOST_GROWTH: u64 = 2_048;

/// The body as it was before this encoding, for the watch.
pub(super) fn decoding(encoding: &[u8], watch: impl Watch + 'static) -> Measured {
    let seer = Seer { watch, room: 1024 * 1024 };
    let decoder = match encoding {
        b"gzip" | b"x-gzip" => Decoder::Gzip(Box::new(MultiGzDecoder::new(seer))),
        b"deflate" => Decoder::Deflate(Some(seer)),
        b"br" => Decoder::Brotli(Box::new(brotli(seer))),
        b"zstd" => Decoder::Zstd(Box::new(Zstd::new(seer))),
        _ => return Measured::Missing,
    };
    Measured::Body(Box::new(Decoded { decoder, is_broken: false }))
}

fn brotli<W: Write>(writer: W) -> DecompressorWriter<W> {
    use brotli_decompressor::BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW;
    let mut decoder = DecompressorWriter::new(writer, 4096);
    // HTTP has none, and they may be of a gigabyte.
    decoder.set_parameter(BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
    decoder
}

/// Writes into a watch.
struct Seer<W> {
    watch: W,
    /// How many bytes more may be decoded of what has come: a few can make gigabytes, and would take
    /// the time of everybody else.
    room: u64,
}

impl<W: Watch> Write for Seer<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = self.room.checked_sub(data.len() as u64);
        self.room = room.ok_or(io::ErrorKind::FileTooLarge)?;
        self.watch.data(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoder<W: Watch> {
    Gzip(Box<MultiGzDecoder<Seer<W>>>),
    /// Before its first byte.
    Deflate(Option<Seer<W>>),
    Zlib(Box<ZlibDecoder<Seer<W>>>),
    Raw(Box<DeflateDecoder<Seer<W>>>),
    Brotli(Box<DecompressorWriter<Seer<W>>>),
    Zstd(Box<Zstd<Seer<W>>>),
}

impl<W: Watch> Decoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if let (Self::Deflate(seer), [first, ..]) = (&mut *self, data)
            && let Some(seer) = seer.take()
        {
            // The name means the zlib format, but some servers send what is inside of it.
            let is_zlib = first & 0x0f == 8 && first >> 4 <= 7;
            *self = if is_zlib {
                Self::Zlib(Box::new(ZlibDecoder::new(seer)))
            } else {
                Self::Raw(Box::new(DeflateDecoder::new(seer)))
            };
        }
        match self {
            Self::Gzip(decoder) => decoder.write_all(data),
            Self::Deflate(_) => Ok(()),
            Self::Zlib(decoder) => decoder.write_all(data),
            Self::Raw(decoder) => decoder.write_all(data),
            Self::Brotli(decoder) => decoder.write_all(data),
            Self::Zstd(decoder) => decoder.write_all(data),
        }
    }

    /// Lets the watch see all that can be decoded of what came.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.flush(),
            Self::Zlib(decoder) => decoder.flush(),
            Self::Raw(decoder) => decoder.flush(),
            Self::Brotli(_) | Self::Zstd(_) | Self::Deflate(_) => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Zlib(decoder) => decoder.try_finish(),
            Self::Raw(decoder) => decoder.try_finish(),
            Self::Brotli(decoder) => decoder.close(),
            Self::Zstd(_) | Self::Deflate(_) => Ok(()),
        }
    }

    fn seer(&self) -> Option<&Seer<W>> {
        match self {
            Self::Gzip(decoder) => Some(decoder.get_ref()),
            Self::Deflate(seer) => seer.as_ref(),
            Self::Zlib(decoder) => Some(decoder.get_ref()),
            Self::Raw(decoder) => Some(decoder.get_ref()),
            Self::Brotli(decoder) => Some(decoder.get_ref()),
            Self::Zstd(decoder) => Some(decoder.get_ref()),
        }
    }

    fn seer_mut(&mut self) -> Option<&mut Seer<W>> {
        match self {
            Self::Gzip(decoder) => Some(decoder.get_mut()),
            Self::Deflate(seer) => seer.as_mut(),
            Self::Zlib(decoder) => Some(decoder.get_mut()),
            Self::Raw(decoder) => Some(decoder.get_mut()),
            Self::Brotli(decoder) => Some(decoder.get_mut()),
            Self::Zstd(decoder) => Some(decoder.get_mut()),
        }
    }

    fn watch_mut(&mut self) -> Option<&mut W> {
        self.seer_mut().map(|seer| &mut seer.watch)
    }
}

/// Watches what a body decodes to.
struct Decoded<W: Watch> {
    decoder: Decoder<W>,
    is_broken: bool,
}

impl<W: Watch> Watch for Decoded<W> {
    fn data(&mut self, data: &[u8]) {
        if self.is_broken {
            return;
        }
        if let Some(seer) = self.decoder.seer_mut() {
            seer.room = seer.room.saturating_add(MOST_GROWTH * data.len() as u64);
        }
        self.is_broken = self.decoder.write(data).is_err();
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(watch) = self.decoder.watch_mut() {
            watch.trailers(trailers);
        }
    }

    fn end(&mut self) -> Option<Usage> {
        // A body that is cut short may have told its usage before.
        let _cut = if self.is_broken { Ok(()) } else { self.decoder.finish() };
        self.decoder.watch_mut()?.end()
    }

    fn has_failed(&self) -> bool {
        self.decoder.seer().is_some_and(|seer| seer.watch.has_failed())
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        let _cut = if self.is_broken { Ok(()) } else { self.decoder.flush() };
        self.decoder.watch_mut().map_or((None, false), Watch::seen)
    }
}
