// A stdio MCP server with everything that the scenarios of @modelcontextprotocol/conformance ask of a server, in both eras of the
// protocol, written down by hand: what is tested is the gateway in front of it. ERAS=legacy or ERAS=modern leaves the other one out.
import { createHmac, randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';

const ERAS = process.env.ERAS ?? 'both';
const LEGACY = ['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05'];
const MODERN = ['2026-07-28'];
const META = 'io.modelcontextprotocol/';
const SERVER_INFO = { name: 'conformance-fixture', version: '1.0.0' };
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';

const send = (message) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n');
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const text = (text) => ({ content: [{ type: 'text', text }] });

class Failure extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

// What is asked of the client: in the legacy era a request of ours, in the modern one a round of the call.
let asked = 0;
const waiting = new Map();
const ask = (method, params) =>
  new Promise((done, failed) => {
    const id = `server-${++asked}`;
    waiting.set(id, { done, failed });
    send({ id, method, params });
  });

const key = randomBytes(32);
const seal = (state) => {
  const body = Buffer.from(JSON.stringify(state)).toString('base64url');
  return `${body}.${createHmac('sha256', key).update(body).digest('base64url')}`;
};
const unseal = (sealed) => {
  const [body, mac] = String(sealed).split('.');
  if (mac !== createHmac('sha256', key).update(body).digest('base64url')) {
    throw new Failure(-32602, 'requestState is not ours');
  }
  return JSON.parse(Buffer.from(body, 'base64url').toString());
};

const elicit = (message, properties) => ({
  method: 'elicitation/create',
  params: { message, requestedSchema: { type: 'object', properties, required: Object.keys(properties) } },
});
const sample = (question, maxTokens = 100) => ({
  method: 'sampling/createMessage',
  params: { messages: [{ role: 'user', content: { type: 'text', text: question } }], maxTokens },
});
const ROOTS = { method: 'roots/list', params: {} };
const string = { type: 'string' };

const need = (inputRequests, state) => ({
  resultType: 'input_required',
  inputRequests,
  ...(state === undefined ? {} : { requestState: seal(state) }),
});
// Whether there is a usable answer to each.
const answered = (responses, names) =>
  names.every((name) => responses?.[name] !== null && typeof responses?.[name] === 'object');

const DEFAULTS = {
  name: { type: 'string', default: 'John Doe' },
  age: { type: 'integer', default: 30 },
  score: { type: 'number', default: 95.5 },
  status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
  verified: { type: 'boolean', default: true },
};
const titled = (names) => names.map(([value, title]) => ({ const: value, title }));
const ENUMS = {
  untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
  titledSingle: {
    type: 'string',
    oneOf: titled([['value1', 'First Option'], ['value2', 'Second Option'], ['value3', 'Third Option']]),
  },
  legacyEnum: {
    type: 'string',
    enum: ['opt1', 'opt2', 'opt3'],
    enumNames: ['Option One', 'Option Two', 'Option Three'],
  },
  untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
  titledMulti: {
    type: 'array',
    items: { anyOf: titled([['value1', 'First Choice'], ['value2', 'Second Choice'], ['value3', 'Third Choice']]) },
  },
};
const told = (outcome) => `action=${outcome.action}, content=${JSON.stringify(outcome.content ?? {})}`;

// A tool is a function of (arguments, call); a call has the client's era, capabilities, answers and state.
const TOOLS = {
  test_simple_text: () => text('This is a simple text response for testing.'),
  test_image_content: () => ({ content: [{ type: 'image', data: PNG, mimeType: 'image/png' }] }),
  test_audio_content: () => ({ content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }] }),
  test_embedded_resource: () => ({
    content: [
      {
        type: 'resource',
        resource: {
          uri: 'test://embedded-resource',
          mimeType: 'text/plain',
          text: 'This is an embedded resource content.',
        },
      },
    ],
  }),
  test_multiple_content_types: () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      { type: 'image', data: PNG, mimeType: 'image/png' },
      {
        type: 'resource',
        resource: {
          uri: 'test://mixed-content-resource',
          mimeType: 'application/json',
          text: '{"test":"data","value":123}',
        },
      },
    ],
  }),
  test_error_handling: () => ({ ...text('This tool intentionally returns an error for testing'), isError: true }),
  test_tool_with_logging: async (_, call) => {
    for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      call.log('info', data);
      await sleep(50);
    }
    return text('logged');
  },
  test_logging_tool: (_, call) => {
    call.log('info', 'logged');
    return text('logged');
  },
  test_tool_with_progress: async (_, call) => {
    for (const progress of [0, 50, 100]) {
      if (call.token !== undefined) {
        send({ method: 'notifications/progress', params: { progressToken: call.token, progress, total: 100 } });
      }
      await sleep(50);
    }
    return text('done');
  },
  test_sampling: async ({ prompt }, call) => {
    const outcome = await call.asked('answer', sample(prompt), 'sampling');
    return outcome.round ?? text(`LLM response: ${outcome.content?.text}`);
  },
  test_elicitation: async ({ message }, call) => {
    const fields = {
      username: { type: 'string', description: "User's response" },
      email: { type: 'string', description: "User's email address" },
    };
    const outcome = await call.asked('answer', elicit(message, fields), 'elicitation');
    return outcome.round ?? text(`User response: ${told(outcome)}`);
  },
  test_elicitation_sep1034_defaults: async (_, call) => {
    const outcome = await call.asked('answer', elicit('Please confirm', DEFAULTS), 'elicitation');
    return outcome.round ?? text(`Elicitation completed: ${told(outcome)}`);
  },
  test_elicitation_sep1330_enums: async (_, call) => {
    const outcome = await call.asked('answer', elicit('Please choose', ENUMS), 'elicitation');
    return outcome.round ?? text(`Elicitation completed: ${told(outcome)}`);
  },
  test_streaming_elicitation: async (_, call) => {
    const outcome = await call.asked('answer', elicit('Go on?', { ok: { type: 'boolean' } }), 'elicitation');
    return outcome.round ?? text('went on');
  },
  test_missing_capability: (_, call) => {
    call.require('sampling');
    return text('has sampling');
  },
  test_input_required_result_elicitation: (_, { responses }) => {
    const name = responses?.user_name?.content?.name;
    if (responses?.user_name?.action !== 'accept' || typeof name !== 'string') {
      return need({ user_name: elicit('What is your name?', { name: string }) });
    }
    return text(`Hello, ${name}!`);
  },
  test_input_required_result_sampling: (_, { responses }) =>
    answered(responses, ['capital_question'])
      ? text(responses.capital_question.content?.text ?? '')
      : need({ capital_question: sample('What is the capital of France?') }),
  test_input_required_result_list_roots: (_, { responses }) =>
    answered(responses, ['client_roots'])
      ? text(JSON.stringify(responses.client_roots.roots))
      : need({ client_roots: ROOTS }),
  test_input_required_result_request_state: (_, { responses, state }) => {
    if (!answered(responses, ['confirm'])) {
      return need({ confirm: elicit('Please confirm', { ok: { type: 'boolean' } }) }, { for: 'confirm' });
    }
    return text(unseal(state).for === 'confirm' ? 'state-ok' : 'state of something else');
  },
  test_input_required_result_tampered_state: (_, { responses, state }) => {
    if (state !== undefined) unseal(state);
    return answered(responses, ['confirm'])
      ? text('state-ok')
      : need({ confirm: elicit('Please confirm', { ok: { type: 'boolean' } }) }, { for: 'tampered' });
  },
  test_input_required_result_multiple_inputs: (_, { responses, state }) => {
    if (!answered(responses, ['user_name', 'greeting', 'client_roots'])) {
      const questions = {
        user_name: elicit('What is your name?', { name: string }),
        greeting: sample('Generate a greeting', 50),
        client_roots: ROOTS,
      };
      return need(questions, { for: 'three' });
    }
    unseal(state);
    return text('all three');
  },
  test_input_required_result_multi_round: (_, { responses, state }) => {
    const round = state === undefined ? 0 : unseal(state).round;
    if (round === 1 && answered(responses, ['step1'])) {
      return need({ step2: elicit('Step 2: What is your favorite color?', { color: string }) }, { round: 2 });
    }
    if (round === 2 && answered(responses, ['step2'])) return text('both steps');
    return need({ step1: elicit('Step 1: What is your name?', { name: string }) }, { round: 1 });
  },
  test_input_required_result_capabilities: (_, { responses, capabilities }) => {
    if (responses) return text('answered');
    const questions = {
      ...(capabilities.elicitation ? { name: elicit('What is your name?', { name: string }) } : {}),
      ...(capabilities.sampling ? { greeting: sample('Generate a greeting') } : {}),
      ...(capabilities.roots ? { roots: ROOTS } : {}),
    };
    return Object.keys(questions).length > 0 ? need(questions) : text('nothing can be asked');
  },
  test_trigger_tool_change: () => {
    changed('notifications/tools/list_changed', 'toolsListChanged');
    return text('changed');
  },
  test_trigger_prompt_change: () => {
    changed('notifications/prompts/list_changed', 'promptsListChanged');
    return text('changed');
  },
};
const ARGUMENTS = { test_sampling: { prompt: string }, test_elicitation: { message: string } };

const user = (content) => ({ role: 'user', content });
const PROMPTS = {
  test_simple_prompt: [[], () => [user({ type: 'text', text: 'This is a simple prompt for testing.' })]],
  test_prompt_with_arguments: [
    ['arg1', 'arg2'],
    ({ arg1, arg2 }) => [user({ type: 'text', text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` })],
  ],
  test_prompt_with_embedded_resource: [
    ['resourceUri'],
    ({ resourceUri: uri }) => [
      user({
        type: 'resource',
        resource: { uri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' },
      }),
      user({ type: 'text', text: 'Please process the embedded resource above.' }),
    ],
  ],
  test_prompt_with_image: [
    [],
    () => [
      user({ type: 'image', data: PNG, mimeType: 'image/png' }),
      user({ type: 'text', text: 'Please analyze the image above.' }),
    ],
  ],
  test_input_required_result_prompt: [
    [],
    (_, { responses }) =>
      answered(responses, ['user_context'])
        ? [user({ type: 'text', text: `Context: ${responses.user_context.content?.context}` })]
        : need({ user_context: elicit('What context should the prompt use?', { context: string }) }),
  ],
};

const RESOURCES = {
  'test://static-text': { mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
  'test://static-binary': { mimeType: 'image/png', blob: PNG },
  'test://watched-resource': { mimeType: 'text/plain', text: 'watched' },
};
const TEMPLATE = /^test:\/\/template\/([^/]+)\/data$/;
const read = (uri) => {
  const id = TEMPLATE.exec(uri)?.[1];
  if (id) {
    const data = JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` });
    return { uri, mimeType: 'application/json', text: data };
  }
  return RESOURCES[uri] && { uri, ...RESOURCES[uri] };
};

// Streams of `subscriptions/listen`, by the id of the request.
const listening = new Map();
let initialised = false;
const changed = (method, filter) => {
  if (initialised) send({ method });
  for (const [id, { accepted }] of listening) {
    if (accepted[filter]) send({ method, params: { _meta: { [`${META}subscriptionId`]: id } } });
  }
};

let logLevel = 'debug';
const LEVELS = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency'];

class Call {
  constructor(request, modern) {
    const { params = {} } = request;
    const meta = params._meta ?? {};
    this.modern = modern;
    this.token = meta.progressToken;
    this.capabilities = modern ? meta[`${META}clientCapabilities`] ?? {} : clientCapabilities;
    this.responses = params.inputResponses;
    this.state = params.requestState;
    this.level = modern ? meta[`${META}logLevel`] : logLevel;
  }

  log(level, data) {
    if (this.level !== undefined && LEVELS.indexOf(level) >= LEVELS.indexOf(this.level)) {
      send({ method: 'notifications/message', params: { level, logger: 'fixture', data } });
    }
  }

  require(capability) {
    if (!this.capabilities[capability]) {
      const data = { requiredCapabilities: { [capability]: {} } };
      if (this.modern) throw new Failure(-32021, `the client can't do ${capability}`, data);
      throw new Error(`the client can't do ${capability}`);
    }
  }

  // The client's answer; in the modern era first the round that asks for it.
  async asked(name, request, capability) {
    this.require(capability);
    if (!this.modern) return ask(request.method, request.params);
    return answered(this.responses, [name]) ? this.responses[name] : { round: need({ [name]: request }) };
  }
}

let clientCapabilities = {};
const CAPABILITIES = {
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { subscribe: true, listChanged: true },
  completions: {},
};
const cached = { ttlMs: 1000, cacheScope: 'public' };

const METHODS = {
  'tools/list': () => ({
    tools: Object.keys(TOOLS).map((name) => {
      const properties = ARGUMENTS[name] ?? {};
      return { name, description: name, inputSchema: { type: 'object', properties, required: Object.keys(properties) } };
    }),
    ...cached,
  }),
  'tools/call': async ({ name, arguments: args = {} }, call) => {
    if (!TOOLS[name]) throw new Failure(-32602, `Unknown tool: ${name}`);
    try {
      return await TOOLS[name](args, call);
    } catch (error) {
      if (error instanceof Failure) throw error;
      return { ...text(error.message), isError: true };
    }
  },
  'prompts/list': () => ({
    prompts: Object.entries(PROMPTS).map(([name, [names]]) => ({
      name,
      description: name,
      arguments: names.map((name) => ({ name, description: name, required: true })),
    })),
    ...cached,
  }),
  'prompts/get': ({ name, arguments: args = {} }, call) => {
    if (!PROMPTS[name]) throw new Failure(-32602, `Unknown prompt: ${name}`);
    const messages = PROMPTS[name][1](args, call);
    return Array.isArray(messages) ? { messages } : messages;
  },
  'resources/list': () => ({
    resources: Object.entries(RESOURCES).map(([uri, { mimeType }]) => ({ uri, name: uri, description: uri, mimeType })),
    ...cached,
  }),
  'resources/templates/list': () => ({
    resourceTemplates: [{ uriTemplate: 'test://template/{id}/data', name: 'template', description: 'by id' }],
    ...cached,
  }),
  'resources/read': ({ uri }, call) => {
    const content = read(uri);
    if (!content) throw new Failure(call.modern ? -32602 : -32002, 'Resource not found', { uri });
    return { contents: [content], ...cached };
  },
  'completion/complete': () => ({ completion: { values: ['one', 'two'], total: 2, hasMore: false } }),
};
const ONLY_LEGACY = {
  ping: () => ({}),
  'logging/setLevel': ({ level }) => {
    logLevel = level;
    return {};
  },
  'resources/subscribe': () => ({}),
  'resources/unsubscribe': () => ({}),
};

async function answer(request) {
  const { method, params = {} } = request;
  const meta = params._meta ?? {};
  const version = meta[`${META}protocolVersion`];
  const modern = version !== undefined;
  if (modern && ERAS !== 'legacy') {
    if (!MODERN.includes(version)) {
      throw new Failure(-32022, 'Unsupported protocol version', { supported: MODERN, requested: version });
    }
    if (typeof meta[`${META}clientCapabilities`] !== 'object') throw new Failure(-32602, 'no clientCapabilities');
    if (method === 'server/discover') {
      const supportedVersions = ERAS === 'both' ? [...MODERN, ...LEGACY] : MODERN;
      return { supportedVersions, capabilities: CAPABILITIES, ...cached, instructions: 'a fixture' };
    }
    if (method === 'subscriptions/listen') return listen(request);
    if (!METHODS[method]) throw new Failure(-32601, `Method not found: ${method}`);
    return METHODS[method](params, new Call(request, true));
  }
  if (ERAS === 'modern') throw new Failure(-32602, 'this server is modern: requests need _meta');
  if (method === 'initialize') {
    initialised = true;
    clientCapabilities = params.capabilities ?? {};
    const wanted = params.protocolVersion;
    return {
      protocolVersion: LEGACY.includes(wanted) ? wanted : LEGACY[0],
      capabilities: { ...CAPABILITIES, logging: {} },
      serverInfo: SERVER_INFO,
    };
  }
  const known = METHODS[method] ?? ONLY_LEGACY[method];
  if (!known) throw new Failure(-32601, `Method not found: ${method}`);
  const call = new Call(request, false);
  let result = await known(params, call);
  // What a modern client is asked for in rounds of its call, a legacy one is asked for by requests.
  while (result.resultType === 'input_required') {
    const asked = Object.entries(result.inputRequests).map(async ([name, { method, params }]) => [name, await ask(method, params)]);
    call.responses = Object.fromEntries(await Promise.all(asked));
    call.state = result.requestState;
    result = await known(params, call);
  }
  return result;
}

function listen({ id, params }) {
  const { toolsListChanged, promptsListChanged, resourcesListChanged, resourceSubscriptions } = params.notifications ?? {};
  const wanted = { toolsListChanged, promptsListChanged, resourcesListChanged, resourceSubscriptions };
  const accepted = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value));
  return new Promise((done) => {
    listening.set(id, { accepted, done });
    const told = { notifications: accepted, _meta: { [`${META}subscriptionId`]: id } };
    send({ method: 'notifications/subscriptions/acknowledged', params: told });
  });
}

const finished = (result, modern) =>
  modern
    ? { resultType: 'complete', ...result, _meta: { ...result._meta, [`${META}serverInfo`]: SERVER_INFO } }
    : Object.fromEntries(Object.entries(result).filter(([name]) => name !== 'ttlMs' && name !== 'cacheScope'));

createInterface({ input: process.stdin }).on('line', async (line) => {
  const message = JSON.parse(line);
  if (message.method === undefined) {
    const { done, failed } = waiting.get(message.id) ?? {};
    waiting.delete(message.id);
    return message.error ? failed?.(new Error(message.error.message)) : done?.(message.result);
  }
  if (message.method === 'notifications/cancelled') listening.delete(message.params?.requestId);
  if (message.id === undefined) return;
  const modern = message.params?._meta?.[`${META}protocolVersion`] !== undefined && ERAS !== 'legacy';
  try {
    send({ id: message.id, result: finished(await answer(message), modern) });
  } catch (error) {
    const { code = -32603, data } = error;
    send({ id: message.id, error: { code, message: error.message, ...(data === undefined ? {} : { data }) } });
  }
}).on('close', () => process.exit(0));
