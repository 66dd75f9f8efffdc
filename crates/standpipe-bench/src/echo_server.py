"""An MCP server with one tool, in nothing but Python's library: what it costs is the same behind every gateway.

`echo` returns its argument `text`; `wait_ms` of waiting come first. Calls are answered one after the other.
"""

import json
import sys
import time


def result(message):
    method, params = message["method"], message.get("params", {})
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "echo", "version": "1"},
        }
    if method == "tools/list":
        schema = {"type": "object", "properties": {"text": {"type": "string"}, "wait_ms": {"type": "number"}}}
        return {"tools": [{"name": "echo", "description": "says it again", "inputSchema": schema}]}
    if method == "tools/call":
        arguments = params["arguments"]
        if arguments.get("wait_ms"):
            time.sleep(arguments["wait_ms"] / 1000)
        return {"content": [{"type": "text", "text": arguments["text"]}]}
    if method == "ping":
        return {}
    return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    found = result(message)
    if found is None:
        answer["error"] = {"code": -32601, "message": "Method not found"}
    else:
        answer["result"] = found
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
