"""A program that knows nothing of events: it publishes one message, at the address and with the certificate given."""

import json
import sys

import paho.mqtt.client as mqtt

host, ca, certificate, key = sys.argv[1:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.tls_set(ca, certificate, key)
client.connect(host, 8883)
client.loop_start()
sent = client.publish("common", json.dumps({"success": "ok"}), qos=1)
sent.wait_for_publish(10)
client.disconnect()
client.loop_stop()
sys.exit(not sent.is_published())
