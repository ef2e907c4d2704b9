//! The part of SPDY/3.1 that remote commands need, seen from the side that opens streams
//! (draft-mbelshe-httpbis-spdy-00). There is no flow control: its peers (`moby/spdystream`) have none.
//!
//! Sans IO: [`Encoder`] makes frames, [`Decoder`] takes them apart. Header blocks that come in are skipped: nothing in
//! them is of use to the side that opened the stream.

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};

/// What the header names and values of the protocol's authors were compressed with: words with their length, then
/// text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards \
        pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding \
        upgrade user-agent vary via warning www-authenticate method get status";
    const MORE: [&str; 8] = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"];
    const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
        403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
        Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
        chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
        text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace().chain(MORE) {
        out.extend((word.len() as u32).to_be_bytes());
        out.extend(word.as_bytes());
    }
    out.extend(TAIL.as_bytes());
    out
}

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const FIN: u8 = 1;

/// The largest payload put into one frame.
const MAX_DATA: usize = 32 * 1024;

/// A connection's peer does not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Not SPDY/3.
    #[error("a control frame has an unknown version")]
    Version,
    /// A frame is shorter than its type wants.
    #[error("a frame is too short")]
    Short,
    /// Headers could not be compressed.
    #[error("headers could not be compressed")]
    Compression,
}

/// What the peer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Bytes of a stream, and whether they are its last.
    Data(u32, Bytes, bool),
    /// A stream was taken; whether the peer sends nothing on it.
    Reply(u32, bool),
    /// A stream was ended.
    Reset(u32),
    /// To be sent back.
    Ping(u32),
    /// The peer takes no more streams.
    GoAway,
    /// Of no meaning here.
    Other,
}

/// Makes frames.
pub(super) struct Encoder {
    compress: Compress,
    next_stream: u32,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, Error> {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary()).map_err(|_| Error::Compression)?;
        Ok(Encoder { compress, next_stream: 1 })
    }

    /// Opens a stream with headers: its id, and the frame.
    pub(super) fn open(&mut self, headers: &[(&str, &str)]) -> Result<(u32, Vec<u8>), Error> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for (name, value) in headers {
            for text in [name, value] {
                block.extend((text.len() as u32).to_be_bytes());
                block.extend(text.as_bytes());
            }
        }
        let mut packed = Vec::with_capacity(block.len() * 2 + 64);
        self.compress.compress_vec(&block, &mut packed, FlushCompress::Sync).map_err(|_| Error::Compression)?;
        let stream = self.next_stream;
        self.next_stream += 2;
        // Stream, no associated stream, highest priority, no credential slot.
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(packed);
        Ok((stream, control(SYN_STREAM, 0, &payload)))
    }

    /// Frames with bytes of a stream.
    pub(super) fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 8);
        for chunk in bytes.chunks(MAX_DATA) {
            data_frame(&mut out, stream, 0, chunk);
        }
        out
    }

    /// The frame that says no more bytes of a stream will come.
    pub(super) fn close(stream: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(8);
        data_frame(&mut out, stream, FIN, &[]);
        out
    }

    /// The answer to a ping.
    pub(super) fn pong(id: u32) -> Vec<u8> {
        control(PING, 0, &id.to_be_bytes())
    }
}

fn data_frame(out: &mut Vec<u8>, stream: u32, flags: u8, bytes: &[u8]) {
    out.extend((stream & 0x7fff_ffff).to_be_bytes());
    out.extend(((bytes.len() as u32) | u32::from(flags) << 24).to_be_bytes());
    out.extend(bytes);
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 8);
    out.extend(0x8003u16.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(((payload.len() as u32) | u32::from(flags) << 24).to_be_bytes());
    out.extend(payload);
    out
}

/// Takes frames apart.
#[derive(Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where bytes of the connection are put.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame; `None` while it is not whole.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Error> {
        let Some(head) = self.buffer.first_chunk::<8>().copied() else { return Ok(None) };
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
        if self.buffer.len() < 8 + length {
            self.buffer.reserve(8 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(8);
        let payload = self.buffer.split_to(length).freeze();
        let fin = flags & FIN != 0;
        if word & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data(word, payload, fin)));
        }
        if (word >> 16) & 0x7fff != 3 {
            return Err(Error::Version);
        }
        let first = || payload.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).ok_or(Error::Short);
        Ok(Some(match word as u16 {
            SYN_REPLY => Frame::Reply(first()? & 0x7fff_ffff, fin),
            RST_STREAM => Frame::Reset(first()? & 0x7fff_ffff),
            PING => Frame::Ping(first()?),
            GO_AWAY => Frame::GoAway,
            _ => Frame::Other,
        }))
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;

    #[test]
    fn header_blocks_name_the_dictionary_of_the_protocol() {
        assert_eq!(dictionary().len(), 1423);
        let mut encoder = Encoder::new().expect("encoder");
        let (id, frame) = encoder.open(&[("streamtype", "error")]).expect("frame");
        assert_eq!(id, 1);
        assert_eq!(frame[..4], [0x80, 3, 0, 1]);
        // A zlib head with the checksum that every SPDY/3 connection begins with.
        assert_eq!(frame[18], 0x78);
        assert_eq!(frame[20..24], [0xe3, 0xc6, 0xa7, 0xc2]);
        let (id, second) = encoder.open(&[("streamtype", "stdin")]).expect("frame");
        assert_eq!(id, 3);

        let mut decompress = Decompress::new(true);
        let mut blocks = Vec::new();
        for frame in [frame, second] {
            let mut out = Vec::with_capacity(1024);
            let mut packed = &frame[18..];
            if decompress.decompress_vec(packed, &mut out, FlushDecompress::Sync).is_err() {
                packed = &packed[decompress.total_in() as usize..];
                decompress.set_dictionary(&dictionary()).expect("dictionary");
                decompress.decompress_vec(packed, &mut out, FlushDecompress::Sync).expect("block");
            }
            blocks.push(out);
        }
        assert_eq!(blocks[0], b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error");
        assert_eq!(blocks[1], b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05stdin");
    }

    #[test]
    fn frames_come_out_whole_however_they_come_in() {
        let mut wire = Encoder::data(3, b"hello");
        wire.extend(Encoder::close(5));
        wire.extend(Encoder::pong(2));
        wire.extend(control(SYN_REPLY, FIN, &[0, 0, 0, 7, 1, 2, 3]));
        wire.extend(control(RST_STREAM, 0, &[0, 0, 0, 9, 0, 0, 0, 1]));
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for byte in wire {
            decoder.buffer().extend_from_slice(&[byte]);
            frames.extend(decoder.next().expect("good"));
        }
        let hello = Bytes::from_static(b"hello");
        let expected = [
            Frame::Data(3, hello, false),
            Frame::Data(5, Bytes::new(), true),
            Frame::Ping(2),
            Frame::Reply(7, true),
            Frame::Reset(9),
        ];
        assert_eq!(frames, expected);
        decoder.buffer().extend_from_slice(&[0x80, 2, 0, 1, 0, 0, 0, 0]);
        assert_eq!(decoder.next(), Err(Error::Version));
        let mut short = Decoder::default();
        short.buffer().extend_from_slice(&[0x80, 3, 0, 3, 0, 0, 0, 1, 0]);
        assert_eq!(short.next(), Err(Error::Short));
    }
}
