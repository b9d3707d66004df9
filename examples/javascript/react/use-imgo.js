import { useEffect, useRef, useState } from 'react';
import { ImgoClient, LocalStorageStore } from 'imgo-client';

/**
 * Connects a component to imgo while it is mounted. It returns the state of the connection and the newest
 * messages.
 */
export function useImgo({ url, user, device, limit = 100 }) {
  const [state, setState] = useState('idle');
  const [messages, setMessages] = useState([]);
  const most = useRef(limit); // another limit is no reason to connect again

  useEffect(() => {
    most.current = limit;
  }, [limit]);

  useEffect(() => {
    const client = new ImgoClient({
      url,
      device,
      tokenSource: async () => {
        const response = await fetch(`/token?user=${encodeURIComponent(user)}`, { method: 'POST' });
        if (!response.ok) throw new Error(await response.text());
        return response.text();
      },
      store: new LocalStorageStore(`imgo:${user}:${device}`),
    });
    client.on('state', (event) => setState(event.state));
    client.on('message', (message) => setMessages((all) => [...all, message].slice(-most.current)));
    client.on('error', (error) => console.error(error));
    client.connect().catch(() => {}); // the state has told why
    return () => {
      client.close();
      setMessages([]);
    };
  }, [url, user, device]);

  return { state, messages };
}
