//! nginx as a peer: one process on the server's core, with a file, an answer without a file, and
//! the channels of nchan.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::{Server, free_address, installed};

/// Where Debian puts the module.
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// How to get both.
pub(crate) const INSTALL: &str = "apt-get install nginx libnginx-mod-nchan";

/// Starts it with its files in `dir`; `None` where it is not installed. `/v.json` is a file that
/// holds `body`, `/return` an answer from memory, `/pub/C` and `/sub/C` channels if `nchan`.
///
/// # Errors
/// It does not get ready.
pub(crate) fn start(dir: &Path, body: &str, nchan: bool) -> Result<Option<Server>> {
    let Some(program) = installed("nginx").filter(|_| !nchan || Path::new(NCHAN).exists()) else {
        return Ok(None);
    };
    let addr = free_address()?;
    let module = if nchan { format!("load_module {NCHAN};") } else { String::new() };
    let (buffer, channels) = if nchan { (BUFFER, CHANNELS) } else { ("", "") };
    // Without the master process there is one process to pin, measure and kill.
    let conf = format!(
        r#"{module}
daemon off; master_process off; pid nginx.pid; error_log stderr error;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  types {{ application/json json; }}
  {buffer}
  server {{
    listen {addr} backlog=4096; root {root};
    location = /return {{ default_type application/json; return 200 "{body}"; }}
    {channels}
  }}
}}
"#,
        root = dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), conf)?;
    std::fs::write(dir.join("v.json"), body)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).args(["-e", "stderr"]);
    Server::at(if nchan { "nginx + nchan" } else { "nginx" }, addr, command).map(Some)
}

/// Large enough that a slow subscriber loses nothing, which is asked of every side.
const BUFFER: &str = "nchan_shared_memory_size 256M; nchan_message_buffer_length 100000; nchan_message_timeout 1m;";

const CHANNELS: &str = "
    location ~ ^/sub/(.+)$ { nchan_subscriber eventsource; nchan_channel_id $1; nchan_subscriber_first_message newest; }
    location ~ ^/pub/(.+)$ { nchan_publisher; nchan_channel_id $1; }";
