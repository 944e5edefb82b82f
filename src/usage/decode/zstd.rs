use std::io::{self, Write};

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest window that HTTP allows.
const WINDOW: u64 = 8 * 1024 * 1024;

/// How much is taken over at once.
const PART: usize = 64 * 1024;

/// Decodes zstd block by block, as the blocks come in. What they decode to is written once it has left
/// the window, or at the end of its frame.
pub(super) struct Zstd<W> {
    writer: W,
    decoder: FrameDecoder,
    /// The header or block in the making, of 128 KiB at most.
    pending: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Header,
    Blocks {
        has_checksum: bool,
    },
    /// In a frame that is to be skipped.
    Skipping(usize),
}

/// What the pending bytes are good for.
enum Step {
    More,
    Taken(usize),
}

impl<W: Write> Zstd<W> {
    pub(super) fn new(writer: W) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self { writer, decoder, pending: Vec::new(), stage: Stage::Header }
    }

    pub(super) fn get_ref(&self) -> &W {
        &self.writer
    }

    pub(super) fn get_mut(&mut self) -> &mut W {
        &mut self.writer
    }

    /// Takes a header or a block from the start of these bytes.
    fn step(&mut self, bytes: &[u8]) -> io::Result<Step> {
        match self.stage {
            Stage::Skipping(left) => {
                let skipped = left.min(bytes.len());
                self.stage = match left - skipped {
                    0 => Stage::Header,
                    left => Stage::Skipping(left),
                };
                Ok(if skipped == 0 && left > 0 { Step::More } else { Step::Taken(skipped) })
            }
            Stage::Header => self.header(bytes),
            Stage::Blocks { has_checksum } => self.block(bytes, has_checksum),
        }
    }

    fn header(&mut self, bytes: &[u8]) -> io::Result<Step> {
        let [magic, _, _, _, descriptor, ..] = *bytes else { return Ok(Step::More) };
        if magic & 0xf0 == 0x50 && bytes[1..4] == [0x2a, 0x4d, 0x18] {
            let [_, _, _, _, length @ ..] = bytes else { return Ok(Step::More) };
            let Some(length) = length.first_chunk() else { return Ok(Step::More) };
            self.stage = Stage::Skipping(u32::from_le_bytes(*length) as usize);
            return Ok(Step::Taken(8));
        }
        let is_single_segment = descriptor & 0x20 != 0;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = [usize::from(is_single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
        let length = 5 + usize::from(!is_single_segment) + dictionary + content;
        let Some(mut header) = bytes.get(..length) else { return Ok(Step::More) };
        self.decoder.init(&mut header).map_err(io::Error::other)?;
        self.stage = Stage::Blocks { has_checksum: descriptor & 4 != 0 };
        Ok(Step::Taken(length))
    }

    fn block(&mut self, bytes: &[u8], has_checksum: bool) -> io::Result<Step> {
        let [low, middle, high, ..] = *bytes else { return Ok(Step::More) };
        let header = u32::from_le_bytes([low, middle, high, 0]);
        let is_last = header & 1 != 0;
        let is_repeat = (header >> 1) & 3 == 1;
        let content = if is_repeat { 1 } else { header as usize >> 3 };
        if content > 128 * 1024 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = 3 + content + if is_last && has_checksum { 4 } else { 0 };
        let Some(mut block) = bytes.get(..length) else { return Ok(Step::More) };
        let one = BlockDecodingStrategy::UptoBlocks(1);
        self.decoder.decode_blocks(&mut block, one).map_err(io::Error::other)?;
        self.decoder.collect_to_writer(&mut self.writer).map_err(io::Error::other)?;
        if is_last {
            self.stage = Stage::Header;
        }
        Ok(Step::Taken(length))
    }
}

impl<W: Write> Write for Zstd<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut pending = std::mem::take(&mut self.pending);
        for part in data.chunks(PART) {
            pending.extend_from_slice(part);
            let mut taken = 0;
            while taken < pending.len()
                && let Step::Taken(more) = self.step(&pending[taken..])?
            {
                taken += more;
            }
            pending.drain(..taken);
        }
        self.pending = pending;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
