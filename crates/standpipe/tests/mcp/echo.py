"""A server for tests of the gateway, in the standard library alone: one message a line, the legacy era (ERA=modern: the modern one).

What it is called comes from NAME. Its tools do what their names say; `raw` answers with the request's line as it came.
"""
import json
import os
import subprocess
import sys
import threading
import time

NAME = os.environ.get("NAME", "echo")
ERA = os.environ.get("ERA", "legacy")
TOOLS = ["raw", "pid", "env", "sleep", "die", "orphan", "progress", "ask", "headers"]
INFO = {"name": NAME, "version": "1"}
CAPABILITIES = {"tools": {}, "prompts": {}, "resources": {}}
out = threading.Lock()
answers = {}
cancelled = set()


def send(text):
    with out:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def text(value):
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]}


def tool(name, arguments, message, line):
    if name == "raw":
        return '{"content":[],"raw":' + line + "}"
    if name == "pid":
        return text(str(os.getpid()))
    if name == "env":
        return text(dict(os.environ))
    if name == "sleep":
        end = time.monotonic() + arguments.get("ms", 0) / 1000
        while time.monotonic() < end and message["id"] not in cancelled:
            time.sleep(0.01)
        return text("cancelled" if message["id"] in cancelled else "slept")
    if name == "die":
        sys.stderr.write("it was asked to die\n")
        sys.stderr.flush()
        os._exit(3)
    if name == "orphan":
        # A session of its own: the group of this process does not have it.
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return text(str(child.pid))
    if name == "progress":
        token = message["params"]["_meta"]["progressToken"]
        for step in range(3):
            send(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress",
                             "params": {"progressToken": token, "progress": step}}))
        return text("done")
    if name == "ask":
        answers["ask-1"] = threading.Event()
        send(json.dumps({"jsonrpc": "2.0", "id": "ask-1", "method": "roots/list"}))
        answers["ask-1"].wait(20)
        return text(answers.pop("ask-1:answer", "no answer"))
    raise KeyError(name)


def complete(result):
    if ERA == "modern" and isinstance(result, dict):
        result = {"resultType": "complete", "_meta": {"io.modelcontextprotocol/serverInfo": INFO}, **result}
    return result


def answer(message, line):
    method, params, id = message["method"], message.get("params", {}), json.dumps(message["id"])
    try:
        if method == "initialize" and ERA == "legacy":
            result = {"protocolVersion": params["protocolVersion"], "capabilities": CAPABILITIES, "serverInfo": INFO}
        elif method == "server/discover" and ERA == "modern":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "ttlMs": 0, "cacheScope": "private"}
        elif method == "ping":
            result = {}
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}, "x-number": 9007199254740993} for name in TOOLS]
            result = {"tools": tools}
        elif method == "prompts/list":
            result = {"prompts": [{"name": "greet"}]}
        elif method == "prompts/get":
            result = {"messages": [], "description": f"{NAME} greets"}
        elif method == "resources/list":
            result = {"resources": [{"uri": f"test://{NAME}/one", "name": "one"}, {"uri": "test://both", "name": "both"}]}
        elif method == "resources/read":
            result = {"contents": [{"uri": params["uri"], "text": NAME}]}
        elif method == "tools/call":
            result = tool(params["name"], params.get("arguments", {}), message, line)
        else:
            raise KeyError(method)
    except KeyError as error:
        send('{"jsonrpc":"2.0","id":%s,"error":%s}' % (id, json.dumps({"code": -32601, "message": f"no {error}"})))
        return
    result = complete(result)
    send('{"jsonrpc":"2.0","id":%s,"result":%s}' % (id, result if isinstance(result, str) else json.dumps(result)))


for line in sys.stdin:
    line = line.strip()
    message = json.loads(line)
    if "method" not in message:
        answers[message["id"] + ":answer"] = json.dumps(message.get("result", message.get("error")))
        answers[message["id"]].set()
    elif "id" in message:
        threading.Thread(target=answer, args=(message, line), daemon=True).start()
    elif message["method"] == "notifications/cancelled":
        cancelled.add(message["params"]["requestId"])
