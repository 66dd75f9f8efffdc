-- The same keys and numbers through etcd's gateway, which wants both in base64.
local n = 0
local headers = { ["Content-Type"] = "application/json" }
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
  local out = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    for place = 0, 3 do
      local six = math.floor(bits / 64 ^ (3 - place)) % 64
      local unused = (place == 2 and not b) or (place == 3 and not c)
      out[#out + 1] = unused and "=" or alphabet:sub(six + 1, six + 1)
    end
  end
  return table.concat(out)
end

function request()
  n = n + 1
  local key = base64(string.format("bench/put/k%06d", n % 100000))
  return wrk.format("POST", "/v3/kv/put", headers, string.format('{"key":"%s","value":"%s"}', key, base64(tostring(n))))
end
