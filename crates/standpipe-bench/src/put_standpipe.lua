-- PUTs of small numbers, each to the next of 100,000 keys.
local n = 0
local headers = { ["Content-Type"] = "application/json" }
function request()
  n = n + 1
  return wrk.format("PUT", string.format("/bench/put/k%06d.json?print=silent", n % 100000), headers, tostring(n))
end
