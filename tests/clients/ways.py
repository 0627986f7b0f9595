# requests and httpx through the proxy that is named: URL, proxy, Authorization, our CA.
import sys

import httpx
import requests

url, proxy, authorization, ca = sys.argv[1:]
headers = {"Authorization": authorization}
first = requests.get(url, headers=headers, proxies={"https": proxy}, verify=ca, timeout=20)
print("requests:", first.status_code, first.text)
import ssl

context = ssl.create_default_context(cafile=ca)
to = proxy if proxy.startswith("socks") else httpx.Proxy(proxy, ssl_context=context)
with httpx.Client(proxy=to, verify=context, timeout=20) as client:
    second = client.get(url, headers=headers)
print("httpx:", second.status_code, second.text)
