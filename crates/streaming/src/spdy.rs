//! SPDY/3.1 framing, as far as remote commands need it: streams of data opened by one side.
//!
//! Sans IO: bytes in, frames out, and the other way. Like `moby/spdystream`, which is at the other end, it knows no
//! flow control. Header blocks are deflated with the dictionary of the specification (draft-mbelshe-httpbis-spdy-00,
//! section 2.6.10.1), one stream of deflation per direction for the whole connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Largest frame taken.
const MAX_FRAME: usize = 4 << 20;

/// Largest block of headers taken, inflated.
const MAX_HEADERS: usize = 64 << 10;

/// Data is sent in frames of this size.
const MAX_DATA: usize = 32 << 10;

/// Strings of the dictionary that stand there with their length in front.
const DICTIONARY_WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// The rest of the dictionary.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
     Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
     Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct \
     Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
     GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
     publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS {
        out.put_u32(word.len() as u32);
        out.put_slice(word.as_bytes());
    }
    out.put_slice(DICTIONARY_TAIL.as_bytes());
    out
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A frame is larger than this side takes.
    #[error("a frame of {0} bytes is too large")]
    TooLarge(usize),
    /// Bytes that are no SPDY/3.1.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
}

/// A frame of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The other side opens a stream.
    SynStream {
        /// Stream.
        stream: u32,
        /// Names and values.
        headers: Vec<(String, String)>,
        /// The other side sends nothing on it.
        fin: bool,
    },
    /// The other side takes a stream.
    SynReply {
        /// Stream.
        stream: u32,
        /// The other side sends nothing on it.
        fin: bool,
    },
    /// A stream is over at once.
    Reset {
        /// Stream.
        stream: u32,
    },
    /// To be answered with the same number.
    Ping(u32),
    /// The other side takes no more streams.
    GoAway,
    /// Data of a stream.
    Data {
        /// Stream.
        stream: u32,
        /// The data.
        data: Bytes,
        /// There is no more.
        fin: bool,
    },
    /// Anything else, of no consequence here.
    Other,
}

/// One end of a connection.
pub struct Codec {
    deflate: Compress,
    inflate: Decompress,
}

impl Default for Codec {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::default(), true);
        // A fresh stream takes any dictionary.
        let _ = deflate.set_dictionary(&dictionary());
        Codec { deflate, inflate: Decompress::new(true) }
    }
}

impl Codec {
    /// Opens a stream. Names go out in lower case.
    pub fn syn_stream(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let block = self.deflate_headers(headers);
        let mut out = BytesMut::with_capacity(block.len() + 18);
        control(&mut out, 1, 0, block.len() + 10);
        out.put_u32(stream);
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&block);
        out.freeze()
    }

    /// Data of a stream, in as many frames as it takes; `fin`: there is no more.
    pub fn data(stream: u32, data: &[u8], fin: bool) -> Bytes {
        let mut out = BytesMut::with_capacity(data.len() + 16);
        let mut rest = data;
        loop {
            let (now, later) = rest.split_at(rest.len().min(MAX_DATA));
            let last = later.is_empty();
            out.put_u32(stream & 0x7fff_ffff);
            out.put_u32((u32::from(fin && last) << 24) | now.len() as u32);
            out.put_slice(now);
            if last {
                return out.freeze();
            }
            rest = later;
        }
    }

    /// The answer to a ping.
    pub fn ping(id: u32) -> Bytes {
        let mut out = BytesMut::with_capacity(12);
        control(&mut out, 6, 0, 4);
        out.put_u32(id);
        out.freeze()
    }

    fn deflate_headers(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_str(), value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let begin = self.deflate.total_in();
        loop {
            let done = (self.deflate.total_in() - begin) as usize;
            let before = out.len();
            if self.deflate.compress_vec(&plain[done..], &mut out, FlushCompress::Sync).is_err() {
                return out;
            }
            let consumed = (self.deflate.total_in() - begin) as usize == plain.len();
            if consumed && out.len() < out.capacity() {
                return out;
            }
            if out.len() == before && consumed {
                return out;
            }
            out.reserve(256);
        }
    }

    fn inflate_headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, Error> {
        const BAD: Error = Error::Malformed("header block");
        let mut plain: Vec<u8> = Vec::with_capacity(1024);
        let begin = self.inflate.total_in();
        loop {
            let done = (self.inflate.total_in() - begin) as usize;
            let before = (done, plain.len());
            match self.inflate.decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| BAD)?;
                    continue;
                }
                Err(_) => return Err(BAD),
            }
            let done = (self.inflate.total_in() - begin) as usize;
            if done == block.len() && plain.len() < plain.capacity() {
                break;
            }
            if plain.len() > MAX_HEADERS || (done, plain.len()) == before && plain.len() < plain.capacity() {
                return Err(BAD);
            }
            plain.reserve(1024);
        }
        let mut rest = plain.as_slice();
        let count = take_u32(&mut rest).ok_or(BAD)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut rest).ok_or(BAD)?;
            let value = take_text(&mut rest).ok_or(BAD)?;
            headers.push((name, value));
        }
        Ok(headers)
    }

    /// Takes the next frame out of what has come; `None` while it is not whole.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let Some(head) = buffer.get(..8) else { return Ok(None) };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > MAX_FRAME {
            return Err(Error::TooLarge(length));
        }
        if buffer.len() < 8 + length {
            buffer.reserve(8 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(8);
        let body = buffer.split_to(length).freeze();
        let fin = flags & 1 != 0;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { stream: first, data: body, fin }));
        }
        if first >> 16 != 0x8003 {
            return Err(Error::Malformed("version"));
        }
        let mut rest = &body[..];
        let short = || Error::Malformed("short frame");
        let frame = match first & 0xffff {
            1 => {
                let stream = take_u32(&mut rest).ok_or_else(short)?;
                let block = rest.get(6..).ok_or_else(short)?;
                Frame::SynStream { stream, headers: self.inflate_headers(block)?, fin }
            }
            2 => {
                let stream = take_u32(&mut rest).ok_or_else(short)?;
                // The block must be inflated all the same: the next one builds on it.
                self.inflate_headers(rest)?;
                Frame::SynReply { stream, fin }
            }
            3 => Frame::Reset { stream: take_u32(&mut rest).ok_or_else(short)? },
            6 => Frame::Ping(take_u32(&mut rest).ok_or_else(short)?),
            7 => Frame::GoAway,
            8 => {
                rest.get(..4).ok_or_else(short)?;
                self.inflate_headers(&rest[4..])?;
                Frame::Other
            }
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32((u32::from(flags) << 24) | length as u32);
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_be_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = take_u32(rest)? as usize;
    if rest.len() < length {
        return None;
    }
    let (text, tail) = rest.split_at(length);
    *rest = tail;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_specifications() {
        let words = dictionary();
        assert_eq!(words.len(), 1423);
        // Its Adler-32, which stands in the first header block of every SPDY/3 connection.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in words {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn header_blocks_name_the_dictionary_of_the_protocol() {
        let frame = Codec::default().syn_stream(1, &[("streamType", "error")]);
        assert_eq!(frame[..4], [0x80, 3, 0, 1]);
        // A zlib head with the checksum that every SPDY/3 connection begins with.
        assert_eq!(frame[18], 0x78);
        assert_eq!(frame[20..24], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn control_frames_come_out_whole_however_they_come_in() {
        let mut wire = BytesMut::new();
        control(&mut wire, 3, 0, 8);
        wire.put_slice(&[0, 0, 0, 9, 0, 0, 0, 1]);
        control(&mut wire, 7, 0, 8);
        wire.put_slice(&[0; 8]);
        control(&mut wire, 4, 0, 4);
        wire.put_slice(&[0; 4]);
        let mut codec = Codec::default();
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            frames.extend(codec.decode(&mut buffer).expect("good frames"));
        }
        assert_eq!(frames, [Frame::Reset { stream: 9 }, Frame::GoAway, Frame::Other]);
        let bad = |bytes: &[u8]| Codec::default().decode(&mut BytesMut::from(bytes));
        assert_eq!(bad(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(Error::Malformed("version")));
        assert_eq!(bad(&[0x80, 3, 0, 3, 0, 0, 0, 1, 0]), Err(Error::Malformed("short frame")));
        assert_eq!(bad(&[0, 0, 0, 1, 0, 0x80, 0, 0]), Err(Error::TooLarge(0x80_0000)));
    }

    #[test]
    fn frames_survive_the_wire_in_pieces() {
        let (mut here, mut there) = (Codec::default(), Codec::default());
        let mut wire = BytesMut::new();
        wire.put(here.syn_stream(1, &[("streamType", "error")]));
        wire.put(here.syn_stream(3, &[("streamType", "stdin"), ("x", "y")]));
        wire.put(Codec::data(3, b"hello", true));
        wire.put(Codec::ping(7));
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(frame) = there.decode(&mut buffer).expect("good frames") {
                frames.push(frame);
            }
        }
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(
            frames,
            [
                Frame::SynStream { stream: 1, headers: vec![pair("streamtype", "error")], fin: false },
                Frame::SynStream { stream: 3, headers: vec![pair("streamtype", "stdin"), pair("x", "y")], fin: false },
                Frame::Data { stream: 3, data: Bytes::from_static(b"hello"), fin: true },
                Frame::Ping(7),
            ]
        );
    }

    #[test]
    fn long_data_is_cut_and_only_the_last_piece_ends_it() {
        let bytes = Codec::data(5, &vec![1; MAX_DATA + 1], true);
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut codec = Codec::default();
        let mut got = Vec::new();
        while let Some(Frame::Data { data, fin, .. }) = codec.decode(&mut buffer).expect("good frames") {
            got.push((data.len(), fin));
        }
        assert_eq!(got, [(MAX_DATA, false), (1, true)]);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut bytes = BytesMut::new();
            for _ in 0..40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes.put_u8((seed >> 33) as u8);
            }
            bytes[..4].copy_from_slice(&[0x80, 3, 0, (seed % 9) as u8]);
            bytes[5..8].copy_from_slice(&[0, 0, 30]);
            let _ = Codec::default().decode(&mut bytes);
        }
    }
}
