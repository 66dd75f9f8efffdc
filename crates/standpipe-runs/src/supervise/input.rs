//! What a process reads: a text, or the records of a stream as they come. A process that does not read leaves us
//! waiting in a write, and one that has closed its input ends the feeding; neither is an error.

use standpipe_engine::{Channel, From, StreamRead, StreamWatch, Streams};
use standpipe_tree::Path;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::command::Stdin;

/// Bytes read from the disk at a time.
const CATCH_UP_BYTES: usize = 256 << 10;

/// The end of a process' input that is ours.
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Where a process' input comes from, opened before it is started.
pub(super) enum Input {
    Text(String),
    Stream(Box<StreamWatch>),
}

/// Opens what `stdin` names; `None` where that is nothing.
///
/// # Errors
/// Why a stream can't be read, for people.
pub(super) fn open(stdin: &Stdin, streams: &Streams) -> Result<Option<Input>, String> {
    Ok(match stdin {
        Stdin::None => None,
        Stdin::Data(text) => Some(Input::Text(text.clone())),
        Stdin::Stream(path) => {
            let refused = |error: &dyn std::fmt::Display| format!("can't read its input, the stream {path}: {error}");
            let parsed = Path::parse(path).map_err(|error| refused(&error))?;
            let watch = streams.watch(&parsed, From::Start).map_err(|error| refused(&error))?;
            Some(Input::Stream(Box::new(watch)))
        }
    })
}

/// Writes all of it, then the end.
pub(super) async fn feed(input: Input, mut writer: Writer) {
    let fed = match input {
        Input::Text(text) => writer.write_all(text.as_bytes()).await,
        Input::Stream(watch) => follow(*watch, &mut writer).await,
    };
    if let Err(error) = fed {
        tracing::debug!(%error, "a process has no more input");
    }
    let _closed = writer.shutdown().await;
}

async fn follow(mut watch: StreamWatch, writer: &mut Writer) -> std::io::Result<()> {
    loop {
        let read = watch.read();
        let reads = match read {
            StreamRead::Behind => watch.catch_up(CATCH_UP_BYTES).map_err(std::io::Error::other)?,
            read => vec![read],
        };
        for read in reads {
            match read {
                StreamRead::Chunk(chunk, range) => {
                    let records = chunk.records().skip(range.start).take(range.len());
                    for record in records.filter(|record| record.channel != Channel::Note) {
                        writer.write_all(record.bytes).await?;
                    }
                }
                StreamRead::Ended(_) => return Ok(()),
                StreamRead::Nothing => watch.changed().await,
                StreamRead::Gap { first_left } => {
                    tracing::info!(stream = %watch.path(), first_left, "a process misses the beginning of its input");
                }
                StreamRead::Behind => {}
            }
        }
    }
}
