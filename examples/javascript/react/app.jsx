import React from 'react';
import { createRoot } from 'react-dom/client';
import { useImgo } from './use-imgo.js';

const user = new URLSearchParams(location.search).get('user') ?? 'ana';

function Messages() {
  const { state, messages } = useImgo({ url: 'ws://127.0.0.1:8090', user, device: 'react' });
  return (
    <>
      <h1>Messages for {user}</h1>
      <p>{state}</p>
      <ul>
        {messages.map((message, index) => (
          <li key={message.id ?? index}>{message.body.text}</li>
        ))}
      </ul>
    </>
  );
}

createRoot(document.getElementById('root')).render(<Messages />);
