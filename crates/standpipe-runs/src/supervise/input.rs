//! What a process reads: a text, or the records of a stream as they come. A process that does not read leaves us
//! waiting in a write, and one that has closed its input ends the feeding; neither is an error.

use std::sync::Arc;

use standpipe_engine::{Channel, From, StreamRead, StreamWatch, Streams};
use standpipe_tree::Path;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::command::Stdin;

/// Bytes read from the disk at a time.
const CATCH_UP_BYTES: usize = 256 << 10;

/// The end of a process' input that is ours.
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Writes all that `stdin` says, then the end.
pub(super) async fn feed(stdin: Stdin, streams: Arc<Streams>, mut writer: Writer) {
    let fed = match stdin {
        Stdin::None => Ok(()),
        Stdin::Data(text) => writer.write_all(text.as_bytes()).await,
        Stdin::Stream(path) => match watch(&streams, &path) {
            Ok(watch) => follow(watch, &mut writer).await,
            Err(error) => {
                tracing::info!(path, %error, "a process has no input, for its stream can't be read");
                Ok(())
            }
        },
    };
    if let Err(error) = fed {
        tracing::debug!(%error, "a process closed its input");
    }
    let _closed = writer.shutdown().await;
}

/// Whether there is something to read at `path`: to be asked before a process is started.
pub(super) fn watch(streams: &Streams, path: &str) -> Result<StreamWatch, String> {
    let path = Path::parse(path).map_err(|error| error.to_string())?;
    streams.watch(&path, From::Start).map_err(|error| error.to_string())
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
                StreamRead::Gap { .. } | StreamRead::Behind => {}
            }
        }
    }
}
